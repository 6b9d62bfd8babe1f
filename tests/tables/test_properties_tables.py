"""Any table that meets its schema survives its file with the same bytes; any that breaks it is refused by name."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from random_tables import SCHEMAS, broken, tables

from ppo_pipeline.tables.schema import NAME_KEY, VERSION_KEY, TableError, TableSchema, flat, lengths, ragged

each = pytest.mark.parametrize("schema", SCHEMAS, ids=lambda c: c.name)


@each
@examples(25)
@given(data=st.data())
def test_a_table_survives_its_file_and_is_written_with_the_same_bytes(
    schema: TableSchema, data, tmp_path: Path
) -> None:
    table = data.draw(tables(schema))
    schema.write(table, tmp_path / "one")
    back = schema.read(tmp_path / "one")
    assert back.to_pydict() == {name: table.column(name).to_pylist() for name in back.column_names}
    assert set(back.column_names) == set(table.column_names)
    schema.write(back, tmp_path / "two")
    shuffled = data.draw(st.permutations(schema.arrow.names))
    rest = [name for name in table.column_names if name not in schema.arrow.names]
    schema.write(table.select([*shuffled, *rest]).combine_chunks(), tmp_path / "three")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() == (tmp_path / "three").read_bytes()


@each
@examples(25)
@given(data=st.data())
def test_some_columns_of_a_table_are_those_of_the_whole(schema: TableSchema, data, tmp_path: Path) -> None:
    table = data.draw(tables(schema))
    schema.write(table, tmp_path / "t")
    wanted = data.draw(st.lists(st.sampled_from(table.column_names), unique=True, max_size=4))
    part = schema.read(tmp_path / "t", wanted)
    assert set(part.column_names) == {schema.arrow.names[0], *wanted}
    assert part.to_pydict() == {name: table.column(name).to_pylist() for name in part.column_names}


@each
@examples(60)
@given(data=st.data())
def test_a_table_that_breaks_its_contract_is_refused_on_write_and_on_read(
    schema: TableSchema, data, tmp_path: Path
) -> None:
    table, column, row = data.draw(broken(schema))
    path = tmp_path / "t"
    path.unlink(missing_ok=True)
    with pytest.raises(TableError) as caught:
        schema.write(table, path)
    assert str(path) in caught.value.message
    assert column in caught.value.message or row in caught.value.message
    assert not list(tmp_path.iterdir())
    if len(set(table.column_names)) == len(table.column_names):
        marks = {NAME_KEY: schema.name, VERSION_KEY: str(schema.version)}
        pq.write_table(table.replace_schema_metadata(marks), path)
        with pytest.raises(TableError) as read:
            schema.read(path)
        assert column in read.value.message or row in read.value.message


@examples(60)
@given(st.lists(st.lists(st.floats(width=32, allow_nan=False), max_size=5), max_size=12), st.data())
def test_ragged_lists_flat_and_lengths_are_inverse_for_any_chunks(rows: list[list[float]], data) -> None:
    column = pa.table({"v": pa.array(rows, pa.list_(pa.float32()))})
    cut = data.draw(st.integers(0, len(rows)))
    column = pa.concat_tables([column.slice(0, cut), column.slice(cut)])
    again = ragged(flat(column, "v"), lengths(column, "v"), pa.float32())
    assert again.to_pylist() == rows
