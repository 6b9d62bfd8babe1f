"""Fetch a data set of a hub as one table of rows, which a file of prompts, answers or pairs may have too."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import PipelineError, nearest
from ..errors.extras import import_extra
from ..prompts.saved_dataset import table_of
from ..settings.dataset_sections import HubDataset
from .hub import offline


def fetch_dataset(settings: HubDataset, name: str) -> pa.Table:
    """Return the rows of the entry `name` of `datasets`, those of `train` first, with the columns that are asked for.

    Where there are two splits, the column `split` tells them. The library `datasets` reads the files of the one
    revision, and runs no code of theirs (it has not since its version 4). Raises PipelineError where it is not here,
    for what it cannot fetch or read, and for columns that are not there.
    """
    library = import_extra("datasets", "datasets", f"datasets.{name}")
    path = settings.source.removeprefix("hf://")
    if Path(path).exists():  # which the library would read instead
        raise PipelineError(f"datasets.{name}: '{path}' is a folder here too, and would be read; rename that folder.")
    parts = []
    for split, theirs in (("train", settings.train), ("heldout", settings.heldout)):
        if theirs is None:
            continue
        try:
            found = library.load_dataset(path, settings.subset, split=theirs, revision=settings.revision)
            table = table_of(found)
        except Exception as error:  # of several libraries: no such data set, split or subset, no network, no space
            where = f"'{settings.source}', split '{theirs}' at {settings.revision}"
            raise PipelineError(f"datasets.{name}: {where} cannot be fetched: {error}{offline()}") from None
        table = _columns(table, settings, name)
        parts.append(table if settings.heldout is None else table.append_column("split", _repeated(split, table)))
    try:
        return pa.concat_tables(parts, promote_options="permissive").replace_schema_metadata(None)
    except pa.ArrowException as error:
        raise PipelineError(f"datasets.{name}: `train` and `heldout` have other columns: {error}") from None


def _columns(table: pa.Table, settings: HubDataset, name: str) -> pa.Table:
    known = table.column_names
    for column in settings.columns.values():
        if column not in known:
            raise PipelineError(
                f"datasets.{name}: columns: '{settings.source}' has no column '{column}'.{nearest(column, known)} It "
                f"has: {', '.join(known)}."
            )
    if not settings.columns:
        return table.drop_columns(["split"]) if settings.heldout is not None and "split" in known else table
    return pa.table({new: table.column(old) for new, old in settings.columns.items()})


def _repeated(value: str, table: pa.Table) -> Any:
    return pa.array([value] * table.num_rows, pa.string())
