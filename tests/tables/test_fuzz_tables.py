"""Damaged Parquet tables: TableError or a table that meets the schema, never another error."""

from pathlib import Path

import pytest
from fuzzing import EDITS, damaged, declared, examples
from hypothesis import given
from hypothesis import strategies as st
from test_tables import SCHEMAS, table

from ppo_pipeline.tables.schema import TableSchema

each = pytest.mark.parametrize("schema", SCHEMAS, ids=lambda c: c.name)


def read(schema: TableSchema, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    found = declared(lambda: schema.read(path), str(path))
    if found is not None:
        schema.checked(found, "again")
        assert found.to_pydict().keys() == set(found.column_names)


@each
@examples(40)
@given(edits=EDITS)
def test_damaged_tables(schema: TableSchema, edits, tmp_path: Path) -> None:
    schema.write(table(schema.name), tmp_path / "good")
    read(schema, tmp_path / "t", damaged((tmp_path / "good").read_bytes(), edits))


@each
@examples(20)
@given(content=st.binary(max_size=60))
def test_any_bytes(schema: TableSchema, content: bytes, tmp_path: Path) -> None:
    read(schema, tmp_path / "t", b"PAR1" + content + b"PAR1")
