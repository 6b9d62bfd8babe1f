"""Damaged Parquet tables: TableError or a table that meets the contract, never another error."""

from pathlib import Path

import pytest
from fuzzing import EDITS, damaged, declared, examples
from hypothesis import given
from hypothesis import strategies as st
from test_tables import SCHEMAS, table

from ppo_pipeline.tables.schema import TableSchema

each = pytest.mark.parametrize("contract", SCHEMAS, ids=lambda c: c.name)


def read(contract: TableSchema, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    found = declared(lambda: contract.read(path), str(path))
    if found is not None:
        contract.checked(found, "again")
        assert found.to_pydict().keys() == set(found.column_names)


@each
@examples(40)
@given(edits=EDITS)
def test_damaged_tables(contract: TableSchema, edits, tmp_path: Path) -> None:
    contract.write(table(contract.name), tmp_path / "good")
    read(contract, tmp_path / "t", damaged((tmp_path / "good").read_bytes(), edits))


@each
@examples(20)
@given(content=st.binary(max_size=60))
def test_any_bytes(contract: TableSchema, content: bytes, tmp_path: Path) -> None:
    read(contract, tmp_path / "t", b"PAR1" + content + b"PAR1")
