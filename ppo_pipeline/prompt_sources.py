"""Read prompt sets: JSONL, CSV or Parquet, with `prompt` or `messages`."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from .column_values import as_written, uniform
from .errors import PipelineError, nearest
from .sections import Prompts
from .tables.prompts import MESSAGE, SPLITS

DEEPEST = 20  # of lists and maps in a further column
ROLES = ("system", "user", "assistant")
OWN = ("prompt_id", "prompt", "messages", "split")
NOT_JSON = (ValueError, RecursionError)  # what json.loads raises: bad syntax, thousands of digits or brackets


def read_prompts(settings: Prompts) -> pa.Table:
    """Return the prompts table of the file or folder `prompts.source`, in the order of its files and rows.

    Each row has `prompt` (the user's message) or `messages`; optional `prompt_id` (else a hash of the
    messages), `split` (else by that hash) and any further columns. Raises PipelineError naming file and row
    for text that is not UTF-8, empty or repeated prompts, unknown roles or splits.
    """
    rows: list[dict[str, Any]] = []
    seen_ids: dict[str, str] = {}
    seen_prompts: dict[str, str] = {}
    for path in _files(Path(settings.source)):
        for number, source in _rows(path):
            place = f"{path}, row {number}"
            messages = _messages(source, settings.system, place)
            try:
                digest = hashlib.sha256(json.dumps(messages, ensure_ascii=False).encode()).hexdigest()
            except UnicodeEncodeError as error:
                raise PipelineError(f"{place}: half of a character, as cutting an emoji leaves ({error}).") from None
            given = source.get("prompt_id")
            prompt_id = digest[:12] if given in (None, "") else str(given)
            for key, seen, what in ((digest, seen_prompts, "prompt"), (prompt_id, seen_ids, "prompt_id")):
                if key in seen:
                    raise PipelineError(f"{place}: the same {what} as in {seen[key]}; remove one of them.")
                seen[key] = place
            more = {k: v for k, v in source.items() if k not in OWN}
            split = _split(source, digest, settings.heldout_fraction, place)
            rows.append({"prompt_id": prompt_id, "messages": messages, "split": split, **more})
    if not rows:
        raise PipelineError(f"{settings.source}: no prompts in it.")
    if all(row["split"] != "train" for row in rows):
        raise PipelineError(f"{settings.source}: no prompt has the split 'train'.")
    return _table(rows, settings.source)


def _files(source: Path) -> list[Path]:
    readers = (".jsonl", ".csv", ".parquet")
    if source.is_dir():
        files = sorted(p for p in source.iterdir() if p.suffix in readers and p.is_file())
        if not files:
            raise PipelineError(f"{source}: no .jsonl, .csv or .parquet file in this folder.")
        return files
    if not source.is_file():
        raise PipelineError(f"params.yaml: prompts.source: no file or folder '{source}'.")
    if source.suffix not in readers:
        raise PipelineError(f"params.yaml: prompts.source: '{source}' is not a .jsonl, .csv or .parquet file.")
    return [source]


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each row with its number: the line of a JSONL file, the record of the others, from 1."""
    if path.suffix == ".jsonl":
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise PipelineError(f"{path}, row {number}: not UTF-8 text ({error}); convert the file.") from None
            except NOT_JSON as error:
                raise PipelineError(f"{path}, row {number}: not a JSON object: {error}.") from None
            if not isinstance(row, dict):
                raise PipelineError(f"{path}, row {number}: expected a JSON object, found {type(row).__name__}.")
            yield number, row
        return
    try:
        # Every CSV column is text: "007" must not become 7 on its way to the reward.
        table = pq.read_table(path) if path.suffix == ".parquet" else _read_csv(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise PipelineError(f"{path}: not readable: {error}") from None
    try:
        rows = as_written(table).to_pylist()
    except (ValueError, OverflowError, TypeError) as error:  # a date that Python has none for, text that is not UTF-8
        raise PipelineError(f"{path}: holds a value that cannot be read: {error}") from None
    yield from enumerate(rows, 1)


def _read_csv(path: Path) -> pa.Table:
    with path.open("rb") as file:
        header = pa.csv.open_csv(file).schema.names
    for name in header:
        if header.count(name) > 1:
            raise PipelineError(f"{path}: column '{name}' stands in it more than once.")
    # As bytes first: pyarrow's own error about text that is not UTF-8 does not say in which row.
    kinds = pa.csv.ConvertOptions(column_types={name: pa.binary() for name in header})
    raw = pa.csv.read_csv(path, parse_options=pa.csv.ParseOptions(newlines_in_values=True), convert_options=kinds)
    columns = []
    for name in raw.column_names:
        try:
            columns.append(raw.column(name).cast(pa.string()))
        except pa.ArrowInvalid:
            row = next(i for i, value in enumerate(raw.column(name), 1) if not _is_utf8(value.as_py()))
            raise PipelineError(f"{path}, row {row}: not UTF-8 text in '{name}'; convert the file.") from None
    return pa.table(columns, names=raw.column_names)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _messages(row: dict[str, Any], system: str | None, place: str) -> list[dict[str, str]]:
    messages = row.get("messages")
    if messages is None:
        if "prompt" not in row:
            hint = next((nearest(k, ["prompt", "messages"]) for k in row if nearest(k, ["prompt", "messages"])), "")
            raise PipelineError(f"{place}: neither `prompt` nor `messages`.{hint}")
        messages = [{"role": "user", "content": row["prompt"]}]
    elif row.get("prompt") is not None:
        raise PipelineError(f"{place}: both `prompt` and `messages`; keep one.")
    if isinstance(messages, str):
        try:
            messages = json.loads(messages)
        except NOT_JSON as error:
            raise PipelineError(f"{place}: `messages` is text that is not JSON: {error}.") from None
    if not isinstance(messages, list) or not messages:
        raise PipelineError(f"{place}: `messages` must be a list of {{role, content}}.")
    clean = []
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise PipelineError(f"{place}: a message's role must be one of {', '.join(ROLES)}; found {message!r}.")
        content = message.get("content")
        if not isinstance(content, str) or not content.strip():
            raise PipelineError(f"{place}: empty prompt: a message's content must be text, found {content!r}.")
        clean.append({"role": message["role"], "content": content})
    if system is not None and clean[0]["role"] != "system":
        clean.insert(0, {"role": "system", "content": system})
    return clean


def _split(row: dict[str, Any], digest: str, heldout_fraction: float, place: str) -> str:
    split = row.get("split")
    if split is None:  # by the prompt's own hash: adding prompts later moves no prompt from one side to the other
        return "heldout" if int(digest[:8], 16) / 2**32 < heldout_fraction else "train"
    if split not in SPLITS:
        raise PipelineError(
            f"{place}: split '{split}' is neither 'train' nor 'heldout'.{nearest(str(split), [*SPLITS])}"
        )
    return str(split)


def _table(rows: list[dict[str, Any]], source: str) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = []
    for name in names:
        kind = pa.list_(MESSAGE) if name == "messages" else None
        try:
            name.encode()
            values = uniform([row.get(name) for row in rows], is_answer=name == "expected")
            columns.append(pa.array(values, type=kind))
            _check_storable(columns[-1].type)
        except (pa.ArrowException, OverflowError, ValueError) as error:
            shown = name.encode("utf-8", "backslashreplace").decode()
            raise PipelineError(f"{source}: column '{shown}' mixes types or holds no valid value: {error}") from None
    return pa.table(columns, names=names)


def _check_storable(kind: pa.DataType, depth: int = 0) -> None:
    """Raise ValueError for a type that Parquet cannot hold: a map without keys, or one nested too deeply."""
    if depth > DEEPEST:
        raise ValueError(f"nested more than {DEEPEST} deep")
    if pa.types.is_struct(kind) and not kind.num_fields:
        raise ValueError("{} in all rows, which Parquet has no type for")
    for place in range(kind.num_fields):
        _check_storable(kind.field(place).type, depth + 1)
