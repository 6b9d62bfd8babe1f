"""Data sets that Hugging Face's `datasets` saved to disk (`save_to_disk`): folders of Arrow files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import PipelineError
from ..errors.extras import import_extra

ONE, SEVERAL = "state.json", "dataset_dict.json"  # of a Dataset, and of a DatasetDict
SPLIT_OF = {"train": "train", "heldout": "heldout", "test": "heldout", "validation": "heldout"}


def is_saved(folder: Path) -> bool:
    """Tell a folder that `save_to_disk` wrote."""
    return (folder / ONE).is_file() or (folder / SEVERAL).is_file()


def saved_tables(folder: Path) -> Iterator[pa.Table]:
    """Yield the rows of a Dataset, or of each split of a DatasetDict, with its split as a column where they have none.

    Raises PipelineError for a folder that the library cannot read, for a split whose name says neither training nor
    held-out, and where the library is not here.
    """
    library = import_extra("datasets", "datasets", str(folder))
    try:
        found = library.load_from_disk(str(folder))
        tables = {name: table_of(part) for name, part in _splits(found).items()}
    except Exception as error:  # of several libraries: a file that is missing, damaged or of another version
        raise PipelineError(f"{folder}: not readable as a saved data set: {error}") from None
    for name, table in tables.items():
        if name and name not in SPLIT_OF:
            known = ", ".join(SPLIT_OF)
            raise PipelineError(f"{folder}: split '{name}'; save the data set with splits of the names {known} alone.")
        if name and "split" not in table.column_names:
            table = table.append_column("split", pa.array([SPLIT_OF[name]] * table.num_rows, pa.string()))
        yield table


def table_of(dataset: Any) -> pa.Table:
    """Return a data set's rows as a table, with the names of classes in place of their numbers."""
    table = dataset.with_format("arrow")[:]
    for place, (name, feature) in enumerate(dataset.features.items()):
        if hasattr(feature, "int2str"):  # a ClassLabel; -1 is a row without
            numbers = table.column(place).to_pylist()
            names = [None if number is None or number < 0 else feature.names[number] for number in numbers]
            table = table.set_column(place, name, pa.array(names, pa.string()))
    return table


def _splits(found: Any) -> dict[str, Any]:
    return found if isinstance(found, dict) else {"": found}
