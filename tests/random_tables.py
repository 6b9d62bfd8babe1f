"""Random tables that meet a schema, and ways to break one of them."""

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from ppo_pipeline.tables.advantages import ADVANTAGES
from ppo_pipeline.tables.evaluation import EVALUATION, EVALUATION_SAMPLES
from ppo_pipeline.tables.prompt_scores import PROMPT_SCORES
from ppo_pipeline.tables.prompts import PROMPTS, SPLITS
from ppo_pipeline.tables.reference import REFERENCE
from ppo_pipeline.tables.rewards import REWARDS
from ppo_pipeline.tables.rollouts import ROLLOUTS
from ppo_pipeline.tables.schema import TableSchema

SCHEMAS = [PROMPTS, ROLLOUTS, REWARDS, REFERENCE, ADVANTAGES, EVALUATION, EVALUATION_SAMPLES, PROMPT_SCORES]
EXTRAS = {
    "number": (pa.float64(), st.floats(allow_nan=False, allow_infinity=False)),
    "text": (pa.string(), st.none() | st.text(max_size=4)),
    "truth": (pa.bool_(), st.none() | st.booleans()),
    # "element" is what Parquet calls a list's items; a list of "item" would come back with the other name.
    "list": (pa.list_(pa.field("element", pa.int64())), st.lists(st.integers(-(2**60), 2**60), max_size=3)),
}
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text(max_size=5)}), max_size=3
)


def values_of(kind: pa.DataType) -> st.SearchStrategy[Any]:
    """Return the strategy of one number or text of a schema's column."""
    if pa.types.is_integer(kind):
        return st.integers(-(2**31), 2**31 - 1)
    if pa.types.is_floating(kind):
        width = 32 if kind == pa.float32() else 64
        return st.floats(allow_nan=False, allow_infinity=False, width=width)
    if pa.types.is_boolean(kind):
        return st.booleans()
    return MESSAGES if pa.types.is_list(kind) else st.text(max_size=6)


@st.composite
def tables(draw: st.DrawFn, schema: TableSchema, least: int = 0) -> pa.Table:
    """Return a table of `least` to 6 rows: any text and numbers, empty lists, further columns, several chunks."""
    keys = draw(st.lists(st.text(max_size=6), min_size=least, max_size=6, unique=True))
    together = {name: group for group in schema.ragged for name in group}
    lengths = draw(st.lists(st.integers(0, 4), min_size=len(keys), max_size=len(keys)))
    columns: dict[str, pa.Array] = {}
    for place, field in enumerate(schema.arrow):
        kind = field.type
        if place == 0:
            column: list[Any] = keys
        elif field.nullable and draw(st.booleans()):
            column = [None] * len(keys)
        elif field.name == "split":
            column = [draw(st.sampled_from(SPLITS)) for _ in keys]
        elif pa.types.is_list(kind) and not pa.types.is_struct(kind.value_type):
            item = values_of(kind.value_type)
            sizes = lengths if field.name in together else [draw(st.integers(0, 4)) for _ in keys]
            column = [draw(st.lists(item, min_size=n, max_size=n)) for n in sizes]
        else:
            column = [draw(values_of(kind)) for _ in keys]
        columns[field.name] = pa.array(column, kind)
    if schema.extra:
        for name in draw(st.lists(st.sampled_from([*EXTRAS]), unique=True, max_size=3)):
            kind, items = EXTRAS[name]
            columns[name] = pa.array([draw(items) for _ in keys], kind)
    table = pa.table(columns)
    cut = draw(st.integers(0, len(keys)))
    return pa.concat_tables([table.slice(0, cut), table.slice(cut)])


def with_column(table: pa.Table, name: str, values: list[Any], kind: pa.DataType | None = None) -> pa.Table:
    """Return the table with a column's values replaced, in its own type or another."""
    place = table.column_names.index(name)
    return table.set_column(place, name, pa.array(values, kind or table.schema.field(name).type))


@st.composite
def broken(draw: st.DrawFn, schema: TableSchema) -> tuple[pa.Table, str, str]:
    """Return a table that breaks its schema in one way, and two things of which an error names one at least:
    the column (in quotes) and the row or key."""
    table = draw(tables(schema, least=2))
    rows = table.num_rows
    row = draw(st.integers(0, rows - 1))
    key = schema.arrow.names[0]
    keys = table.column(key).to_pylist()
    fields = [table.schema.field(name) for name in schema.arrow.names]
    full = [f.name for f in fields if not table.column(f.name).null_count]
    floats = [f.name for f in fields if pa.types.is_floating(item_type(f.type)) and f.name in full]
    lists = [f.name for f in fields if pa.types.is_list(f.type) and f.name in full]
    aligned = [n for group in schema.ragged for n in group if n in full]
    ways = ["missing", "empty", "twice", "repeated key", "type"]
    ways += ["unknown"] * (not schema.extra) + ["not finite"] * bool(floats) + ["empty item"] * bool(lists)
    ways += ["lengths"] * (len(aligned) > 1) + ["split"] * ("split" in table.column_names)
    way = draw(st.sampled_from(ways))
    if way == "missing":
        name = draw(st.sampled_from(schema.arrow.names))
        return table.drop_columns([name]), f"'{name}'", name
    if way == "unknown":
        return table.append_column("more", pa.nulls(rows)), "'more'", "more"
    if way == "twice":
        name = draw(st.sampled_from(schema.arrow.names))
        return table.append_column(name, table.column(name)), f"'{name}'", name
    if way == "repeated key":
        other = draw(st.integers(0, rows - 1).filter(lambda n: n != row))
        return (
            with_column(table, key, [keys[row] if i == other else k for i, k in enumerate(keys)]),
            f"'{key}'",
            repr(keys[row]),
        )
    if way == "split":
        values = table.column("split").to_pylist()
        values[row] = draw(st.text(max_size=5).filter(lambda s: s not in SPLITS))
        return with_column(table, "split", values), "'split'", f"row {row}"
    if way == "type":
        name = draw(st.sampled_from(schema.arrow.names))
        wrong = (
            pa.list_(pa.list_(pa.int64()))
            if pa.types.is_list(table.schema.field(name).type)
            else pa.struct([("a", pa.int8())])
        )
        return with_column(table, name, [[] if pa.types.is_list(wrong) else {"a": 1}] * rows, wrong), f"'{name}'", name
    name = draw(
        st.sampled_from(
            full if way == "empty" else floats if way == "not finite" else lists if way == "empty item" else aligned
        )
    )
    values = table.column(name).to_pylist()
    if way == "empty":
        values[row] = None
    elif way == "not finite":
        bad = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
        values[row] = [*values[row], bad] if isinstance(values[row], list) else bad
        for other in aligned if name in aligned else ():
            if other != name:
                table = longer(table, other, row)
    elif way == "empty item":
        values[row] = [*values[row], None]
    else:
        values[row] = [*values[row], 0.0 if name in floats else 0]
        return with_column(table, name, values), f"'{name}'", repr(keys[row])
    return with_column(table, name, values), f"'{name}'", f"row {row}"


def longer(table: pa.Table, name: str, row: int) -> pa.Table:
    """Return the table with one more item, 0, in a row's list."""
    values = table.column(name).to_pylist()
    values[row] = [*values[row], 0]
    return with_column(table, name, values)


def item_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of a list's items, or the type itself."""
    return kind.value_type if pa.types.is_list(kind) else kind
