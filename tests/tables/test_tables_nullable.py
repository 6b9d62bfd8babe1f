"""Columns that can be empty, without a critic: in all rows or in none, on write and on read."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ppo_pipeline.tables.advantages import ADVANTAGES
from ppo_pipeline.tables.evaluation import EVALUATION, EVALUATION_SAMPLES
from ppo_pipeline.tables.prompts import PROMPTS
from ppo_pipeline.tables.reference import REFERENCE
from ppo_pipeline.tables.rewards import REWARDS
from ppo_pipeline.tables.rollouts import ROLLOUTS
from ppo_pipeline.tables.schema import TableError, TableSchema

LISTS = [[0.5, -1.0], [2.0], [3.0, 4.0, 5.0]]
ROWS = {
    "reference": {
        "sample_id": ["a", "b", "c"], "policy_logprobs": LISTS, "reference_logprobs": LISTS, "values": LISTS,
        "bootstrap_value": [0.0, 1.0, 2.0], "entropy": LISTS,
    },
    "advantages": {
        "sample_id": ["a", "b", "c"], "token_rewards": LISTS, "advantages": LISTS, "returns": LISTS,
        "correct": [True, False, True],
    },
}  # fmt: skip
NULLABLE = [(REFERENCE, "values"), (REFERENCE, "bootstrap_value"), (ADVANTAGES, "returns")]
OTHERS = ("rewards", "evaluation", "evaluation_samples", "advantages")
CORRECT = {(name, "correct") for name in OTHERS}  # of the same kind, without lists
each = pytest.mark.parametrize(("schema", "column"), NULLABLE, ids=lambda value: getattr(value, "name", value))


def table(schema: TableSchema, **changes: object) -> pa.Table:
    return pa.table({**ROWS[schema.name], **changes})


def test_no_other_column_can_be_empty() -> None:
    schemas = (ADVANTAGES, EVALUATION, EVALUATION_SAMPLES, PROMPTS, REFERENCE, REWARDS, ROLLOUTS)
    found = {(schema.name, field.name) for schema in schemas for field in schema.arrow if field.nullable}
    assert found == {(schema.name, column) for schema, column in NULLABLE} | CORRECT


@each
def test_empty_in_all_rows_comes_back_empty(schema: TableSchema, column: str, tmp_path: Path) -> None:
    """Whether the column came without a type or with its own; and the bytes are the same."""
    kind = schema.arrow.field(column).type
    for name, nulls in (("untyped", pa.nulls(3)), ("typed", pa.nulls(3, kind))):
        schema.write(table(schema, **{column: nulls}), tmp_path / name)
        back = schema.read(tmp_path / name)
        assert back.schema.field(column).type == kind
        assert back.to_pydict() == {**ROWS[schema.name], column: [None] * 3}
        assert schema.read(tmp_path / name, [column]).column(column).null_count == 3
    assert (tmp_path / "untyped").read_bytes() == (tmp_path / "typed").read_bytes()


@each
@pytest.mark.parametrize("empty", [[0], [2], [0, 1], [1, 2]])
def test_empty_in_some_rows_is_refused(schema: TableSchema, column: str, empty: list[int], tmp_path: Path) -> None:
    values = [None if row in empty else value for row, value in enumerate(ROWS[schema.name][column])]
    broken = table(schema, **{column: values})
    with pytest.raises(TableError, match=rf"out: column '{column}', row {empty[0]}: empty"):
        schema.write(broken, tmp_path / "out")
    schema.write(table(schema), tmp_path / "good")
    written = pq.read_schema(tmp_path / "good")
    metadata = {k: v for k, v in written.metadata.items() if k != b"ppo_pipeline.checksum"}  # that of the good file
    pq.write_table(broken.cast(written.with_metadata(metadata)), tmp_path / "bad")
    for columns in (None, [column]):
        with pytest.raises(TableError, match=rf"bad: column '{column}', row {empty[0]}: empty"):
            schema.read(tmp_path / "bad", columns)


@pytest.mark.parametrize(("schema", "column"), [NULLABLE[0], NULLABLE[2]], ids=["values", "returns"])
def test_where_it_is_not_empty_its_lists_have_the_other_columns_lengths(
    schema: TableSchema, column: str, tmp_path: Path
) -> None:
    with pytest.raises(TableError, match=rf"sample_id 'b': '\w+' has 1 items, '{column}' has 2"):
        schema.write(table(schema, **{column: [[0.0, 0.0], [0.0, 0.0], [0.0] * 3]}), tmp_path / "out")
    with pytest.raises(TableError, match=rf"column '{column}', row 1\b"):
        schema.write(table(schema, **{column: [[0.0, 0.0], [None], [0.0] * 3]}), tmp_path / "out")


@each
def test_the_other_columns_are_checked_where_it_is_empty(schema: TableSchema, column: str, tmp_path: Path) -> None:
    first, second = list(ROWS[schema.name])[1:3]
    bare = {column: pa.nulls(3)}
    with pytest.raises(TableError, match=rf"sample_id 'c': '{first}' has 3 items, '{second}' has 1"):
        schema.write(table(schema, **bare, **{second: [[0.0, 0.0], [0.0], [0.0]]}), tmp_path / "out")
    with pytest.raises(TableError, match=rf"column '{first}', row 1 \('b'\): not a finite number"):
        schema.write(table(schema, **bare, **{first: [[0.0, 0.0], [float("nan")], [0.0] * 3]}), tmp_path / "out")
    assert not list(tmp_path.iterdir())
