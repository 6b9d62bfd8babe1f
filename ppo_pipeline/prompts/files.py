"""The files of a prompt set and their rows: JSONL, JSON, CSV, TSV, Parquet, or a saved data set."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ..errors import PipelineError
from .column_values import as_written, numbers_of_text
from .saved_dataset import is_saved, saved_tables

KINDS = (".jsonl", ".jsonl.gz", ".json", ".csv", ".tsv", ".parquet")
NAMED = f"{', '.join(KINDS[:-1])} or {KINDS[-1]}"
ABOUT = (".md", ".dvc")  # pages about the files of a folder, and DVC's notes of what it keeps
TEXTS = (  # columns that are text in CSV too, whatever stands there
    "prompt", "messages", "system", "prompt_id", "pair_id", "split", "completion", "chosen", "rejected", "response",
)  # fmt: skip
NOT_JSON = (ValueError, RecursionError)  # what json.loads raises: bad syntax, thousands of digits or brackets


def prompt_files(source: Path, setting: str = "prompts.source") -> list[Path]:
    """Return the file `source`, or the files of the folder and its subfolders in the order of their names.

    A folder that is a saved data set counts as one file. Hidden files and folders, README, LICENSE, .md and .dvc files
    are left out. setting: that names the source. Raises PipelineError for any other file that is no prompt file: one
    that is passed over in silence would be missed by nobody.
    """
    if is_saved(source):
        return [source]
    if source.is_dir():
        files = list(_walk(source))
        if not files:
            raise PipelineError(f"{source}: no {NAMED} file in this folder.")
        return files
    if not source.is_file():
        raise PipelineError(f"params.yaml: {setting}: no file or folder '{source}'.")
    if not _kind(source):
        raise PipelineError(f"params.yaml: {setting}: '{source}' is not a {NAMED} file.")
    return [source]


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if path.is_symlink():
                raise PipelineError(f"{path}: a link to a folder; put the folder itself there.")
            yield from [path] if is_saved(path) else _walk(path)
        elif _kind(path) and path.is_file():
            yield path
        elif path.suffix.lower() not in ABOUT and path.stem.upper() not in ("README", "LICENSE"):
            raise PipelineError(f"{path}: not a {NAMED} file; take it out of the folder of prompts, or convert it.")


def _kind(path: Path) -> str:
    """Return which of KINDS the file's name ends in; empty for none."""
    return next((kind for kind in KINDS if path.name.lower().endswith(kind)), "")


def rows_of(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each row with its number: the line of a JSONL file, the record of the others, from 1.

    Raises PipelineError naming file and row for what cannot be read, and for a file without a row.
    """
    readers = {".jsonl": _jsonl, ".jsonl.gz": _jsonl, ".json": _json}
    reader = _saved if path.is_dir() else readers.get(_kind(path), _table)
    number = 0
    for number, row in reader(path):
        if not isinstance(row, dict):
            raise PipelineError(f"{path}, row {number}: expected a JSON object, found {type(row).__name__}.")
        yield number, row
    if not number:
        raise PipelineError(f"{path}: no prompts in it.")


def parse(text: str | bytes) -> Any:
    """Return the value of a JSON text; raise one of NOT_JSON, also for a key that stands twice in an object."""
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} stands in it more than once")
    return found


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        data = gzip.decompress(path.read_bytes()) if _kind(path).endswith(".gz") else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise PipelineError(f"{path}: not readable: {error}") from None
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = parse(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            raise PipelineError(f"{path}, row {number}: not UTF-8 text ({error}); convert the file.") from None
        except NOT_JSON as error:
            raise PipelineError(f"{path}, row {number}: not a JSON object: {error}.") from None
        yield number, row


def _json(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        rows = parse(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise PipelineError(f"{path}: not UTF-8 text ({error}); convert the file.") from None
    except NOT_JSON as error:
        more = " A file with an object on each line is JSONL: call it .jsonl." if "Extra data" in str(error) else ""
        raise PipelineError(f"{path}: not JSON: {error}.{more}") from None
    if not isinstance(rows, list):
        raise PipelineError(f"{path}: expected a list of objects, found {type(rows).__name__}.")
    yield from enumerate(rows, 1)


def _table(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        table = pq.read_table(path) if _kind(path) == ".parquet" else _read_csv(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise PipelineError(f"{path}: not readable: {error}") from None
    yield from enumerate(_rows(table, path), 1)


def _saved(path: Path) -> Iterator[tuple[int, Any]]:
    yield from enumerate((row for table in saved_tables(path) for row in _rows(table, path)), 1)


def _rows(table: pa.Table, path: Path) -> list[dict[str, Any]]:
    try:
        return as_written(table).to_pylist()  # type: ignore[no-any-return]
    except (ValueError, OverflowError, TypeError) as error:  # a date that Python has none for, text that is not UTF-8
        raise PipelineError(f"{path}: holds a value that cannot be read: {error}") from None


def _read_csv(path: Path) -> pa.Table:
    form = pa.csv.ParseOptions(newlines_in_values=True, delimiter="\t" if _kind(path) == ".tsv" else ",")
    with path.open("rb") as file:
        header = pa.csv.open_csv(file, parse_options=form).schema.names
    for name in header:
        if header.count(name) > 1:
            raise PipelineError(f"{path}: column '{name}' stands in it more than once.")
    # As bytes first: pyarrow's own error about text that is not UTF-8 does not say in which row.
    kinds = pa.csv.ConvertOptions(column_types={name: pa.binary() for name in header})
    raw = pa.csv.read_csv(path, parse_options=form, convert_options=kinds)
    columns = []
    for name in raw.column_names:
        try:
            cells = raw.column(name).cast(pa.string()).to_pylist()
        except pa.ArrowInvalid:
            row = next(i for i, value in enumerate(raw.column(name), 1) if not _is_utf8(value.as_py()))
            raise PipelineError(f"{path}, row {row}: not UTF-8 text in '{name}'; convert the file.") from None
        columns.append(pa.array(cells if name in TEXTS else numbers_of_text(cells)))
    return pa.table(columns, names=raw.column_names)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
