"""prompts.parquet: the prompts of a run, with their split and whatever columns the reward needs."""

import pyarrow as pa
import pyarrow.compute as pc

from .schema import TableError, TableSchema, field

MESSAGE = pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())])
SPLITS = ("train", "heldout")


def _check(table: pa.Table, source: str) -> None:
    bad = pc.invert(pc.is_in(table.column("split"), value_set=pa.array(SPLITS)))
    if pc.any(bad, min_count=0).as_py():
        row = pc.index(bad, True).as_py()
        raise TableError(
            f"{source}: column 'split', row {row}: '{table.column('split')[row]}' is neither 'train' nor 'heldout'."
        )


def further_columns(table: pa.Table) -> list[str]:
    """Return the names of the columns that are the prompts' own: answers, topics, whatever their file has."""
    return [name for name in table.column_names if name not in PROMPTS.arrow.names]


PROMPTS = TableSchema(
    name="prompts",
    version=1,
    arrow=pa.schema(
        [
            field("prompt_id", pa.string(), "Unique name of the prompt"),
            field("messages", pa.list_(MESSAGE), "The conversation that the model continues"),
            field("split", pa.string(), "train or heldout"),
        ]
    ),
    extra=True,
    finite_extra=False,  # a missing number is NaN in what pandas writes
    check_more=_check,
)
