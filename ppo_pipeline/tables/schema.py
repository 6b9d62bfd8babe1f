"""What every Parquet artifact shares: a fixed schema, checks on write and on read, byte-stable files."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import PipelineError
from ..errors.machine_faults import is_machines
from ..storage.files import atomic_file

NAME_KEY, VERSION_KEY, CHECKSUM_KEY = b"ppo_pipeline.table", b"ppo_pipeline.version", b"ppo_pipeline.checksum"
MARK, BLANK = b"sha256:", b"0" * 64

FORMAT: dict[str, Any] = {
    "version": "2.6", "data_page_version": "1.0", "compression": "zstd", "compression_level": 3,
    "row_group_size": 8192, "use_dictionary": True, "write_statistics": True, "store_schema": True,
}  # fmt: skip


class TableError(PipelineError):
    """A table that breaks its schema; the message names file, column and row."""


def field(name: str, kind: pa.DataType, description: str, nullable: bool = False) -> pa.Field:
    """Return a field that carries its description into the file.

    A nullable one is empty in all rows or in none, unless it is among the table's `gaps`.
    """
    return pa.field(name, kind, nullable=nullable, metadata={"description": description})


@dataclass(frozen=True)
class TableSchema:
    """What one table holds.

    arrow: the fixed columns, in order; the first one is the key, unique and without nulls.
    ragged: groups of list columns whose lists have equal lengths in each row.
    gaps: nullable columns that may be empty in some rows.
    extra: whether further columns may follow the fixed ones. finite_extra: whether their numbers must be finite.
    """

    name: str
    version: int
    arrow: pa.Schema
    ragged: Sequence[Sequence[str]] = ()
    gaps: Sequence[str] = ()
    extra: bool = False
    finite_extra: bool = True
    check_more: Callable[[pa.Table, str], None] | None = None

    def write(self, table: pa.Table, path: Path) -> None:
        """Check `table` and write it to `path`, whole or not at all, with the same bytes for the same rows."""
        table = self.checked(table, str(path))
        metadata = {NAME_KEY: self.name.encode(), VERSION_KEY: str(self.version).encode(), CHECKSUM_KEY: MARK + BLANK}
        table = table.replace_schema_metadata(metadata)
        with atomic_file(path) as partial:
            pq.write_table(table, partial, **FORMAT)
            at, checksum = checksum_of(partial.read_bytes())
            with partial.open("r+b") as file:
                file.seek(at)
                file.write(checksum)

    def read(self, path: Path, columns: list[str] | None = None) -> pa.Table:
        """Read and check the table at `path`; `columns` limits what is read to these and the key."""
        key = self.arrow.names[0]
        wanted = None if columns is None else [key, *(c for c in columns if c != key)]
        try:
            data = path.read_bytes()
            at, checksum = checksum_of(data)
            if at and data[at : at + len(checksum)] != checksum:
                raise TableError(
                    f"{path}: damaged or altered since it was written (by its checksum); delete it and rerun."
                )
            file = pq.ParquetFile(pa.BufferReader(data))
            metadata = file.schema_arrow.metadata or {}
            found = tuple(metadata.get(key, b"?").decode(errors="replace") for key in (NAME_KEY, VERSION_KEY))
            if found != (self.name, str(self.version)):
                raise TableError(
                    f"{path}: expected a '{self.name}' table of version {self.version}, "
                    f"found '{found[0]}' of version {found[1]}; rerun the stage that writes it."
                )
            table = file.read(columns=wanted)
        except FileNotFoundError:
            raise TableError(f"{path}: no such file; `dvc repro` makes it, `dvc pull` fetches it.") from None
        except (pa.ArrowException, OSError, ValueError) as error:  # names that are no UTF-8 are a ValueError
            if is_machines(error):
                raise
            raise TableError(f"{path}: not a readable Parquet file ({error}); delete it and rerun.") from None
        return self.checked(table, str(path), partial=columns is not None)

    def checked(self, table: pa.Table, source: str, partial: bool = False) -> pa.Table:
        """Return `table` cast to the schema's column types and order, or raise TableError."""
        names = [n for n in self.arrow.names if not partial or n in table.column_names]
        for name in names:
            if name not in table.column_names:
                raise TableError(f"{source}: column '{name}' is missing.")
        for name in table.column_names:
            if table.column_names.count(name) > 1:
                raise TableError(f"{source}: column '{name}' stands in it more than once.")
        extra = [n for n in table.column_names if n not in self.arrow.names]
        if extra and not self.extra:
            raise TableError(f"{source}: unknown column '{extra[0]}'.")
        columns, fields = [], []
        for name in names:
            expected = self.arrow.field(name)
            column = table.column(name)
            if column.type != expected.type:
                try:
                    column = column.cast(expected.type)
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                    raise TableError(f"{source}: column '{name}': {error}") from None
            columns.append(column)
            fields.append(expected)
        columns += [table.column(name) for name in extra]
        fields += [table.schema.field(name) for name in extra]
        table = pa.table(columns, schema=pa.schema(fields))
        self._check_empty(table, names, source)
        self._check_rows(table, [*names, *(extra if self.finite_extra else ())], source)
        if self.check_more is not None and not partial:
            self.check_more(table, source)
        return table

    def _check_empty(self, table: pa.Table, names: list[str], source: str) -> None:
        for name in names:
            column = table.column(name)
            row = None
            allowed = self.arrow.field(name).nullable and (column.null_count == len(column) or name in self.gaps)
            if column.null_count and not allowed:
                row = pc.index(pc.is_null(column), True).as_py()
            elif pa.types.is_list(column.type):
                items = pc.is_null(pc.list_flatten(column))
                if pc.any(items, min_count=0).as_py():
                    row = pc.list_parent_indices(column)[pc.index(items, True).as_py()].as_py()
            if row is not None:
                raise TableError(f"{source}: column '{name}', row {row}: empty.")

    def _check_rows(self, table: pa.Table, names: list[str], source: str) -> None:
        key = self.arrow.names[0]
        keys = table.column(key)
        if pc.count_distinct(keys).as_py() != table.num_rows:
            counts = pc.value_counts(keys)
            repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")[0].as_py()
            raise TableError(f"{source}: column '{key}': '{repeated}' stands in more than one row.")
        for name in names:
            self._check_finite(table.column(name), name, keys, source)
        for group in self.ragged:
            present = [n for n in group if n in table.column_names and not table.column(n).null_count]
            for name in present[1:]:
                first, other = (pc.list_value_length(table.column(n)) for n in (present[0], name))
                if not pc.all(pc.equal(first, other), min_count=0).as_py():
                    row = pc.index(pc.equal(first, other), False).as_py()
                    raise TableError(
                        f"{source}: {key} '{keys[row].as_py()}': '{present[0]}' has {first[row]} items, "
                        f"'{name}' has {other[row]}."
                    )

    @staticmethod
    def _check_finite(column: pa.ChunkedArray, name: str, keys: pa.ChunkedArray, source: str) -> None:
        is_list = pa.types.is_list(column.type)
        if not pa.types.is_floating(column.type.value_type if is_list else column.type):
            return
        values = pc.list_flatten(column) if is_list else column
        finite = pc.is_finite(values)
        if pc.all(finite, min_count=0).as_py():
            return
        position = pc.index(finite, False).as_py()
        row = pc.list_parent_indices(column)[position].as_py() if is_list else position
        raise TableError(f"{source}: column '{name}', row {row} ('{keys[row].as_py()}'): not a finite number.")


def checksum_of(data: bytes) -> tuple[int, bytes]:
    """Return where in a file's bytes its checksum stands, 0 where it has none, and what it should be.

    DVC trusts a file's time and size and hashes it no second time; Parquet's own checksums leave out the headers of the
    pages and the footer, and with them counts of rows and names. So the footer holds the SHA-256 of the whole file,
    computed with zeros in its place.
    """
    at = data.rfind(MARK) + len(MARK)
    if at < len(MARK):
        return 0, b""
    digest = hashlib.sha256(memoryview(data)[:at])
    digest.update(BLANK)
    digest.update(memoryview(data)[at + len(BLANK) :])
    return at, digest.hexdigest().encode()


def ragged(values: np.ndarray, lengths: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Return a list column from the concatenated `values` (sum of lengths,) and each row's length (N,)."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values).cast(kind))


def flat(table: pa.Table, name: str) -> np.ndarray:
    """Return the concatenated lists of a list column as one numpy array."""
    return pc.list_flatten(table.column(name)).to_numpy()


def lengths(table: pa.Table, name: str) -> np.ndarray:
    """Return the length of each row's list (N,)."""
    return pc.list_value_length(table.column(name)).to_numpy()


def same_order(first: pa.Table, second: pa.Table, sources: str) -> None:
    """Raise TableError unless both tables hold the same keys in the same order."""
    a, b = first.column(0), second.column(0)
    if len(a) != len(b):
        raise TableError(f"{sources}: {len(a)} rows against {len(b)}; rerun the older one's stage.")
    if not pc.all(pc.equal(a, b), min_count=0).as_py():
        row = pc.index(pc.equal(a, b), False).as_py()
        raise TableError(f"{sources}: row {row} is '{a[row]}' in one and '{b[row]}' in the other.")
