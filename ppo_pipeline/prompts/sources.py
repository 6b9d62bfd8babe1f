"""Read prompt sets into the prompts table: each row's id, conversation, split and further columns."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import PipelineError, nearest
from ..settings.sections import Prompts
from ..tables.prompts import MESSAGE, SPLITS
from .column_values import uniform
from .conversations import conversation_of, with_system
from .files import prompt_files, rows_of

DEEPEST = 20  # of lists and maps in a further column
OWN = ("prompt_id", "prompt", "messages", "system", "split")


def read_prompts(settings: Prompts) -> pa.Table:
    """Return the prompts table of the file or folder `prompts.source`, in the order of its files and rows.

    Each row has `prompt` (the user's message, or a list of messages) or `messages`; optional `system`, `prompt_id`
    (else a hash of the messages), `split` (else by that hash) and any further columns. The hash is of what the row's
    author wrote, `system` included: no setting changes an id or moves a prompt into the other split. Raises
    PipelineError naming file and row for text that is not UTF-8, empty or repeated prompts, unknown roles or splits.
    """
    rows: list[dict[str, Any]] = []
    seen_ids: dict[str, str] = {}
    seen_prompts: dict[str, str] = {}
    for path in prompt_files(Path(settings.source)):
        for number, source in rows_of(path):
            place = f"{path}, row {number}"
            written = conversation_of(source, settings.continue_final_message, place)
            messages = with_system(written, settings.system)
            digest, shown = digest_of(written, place), digest_of(messages, place)
            prompt_id = name_of("prompt_id", source.get("prompt_id"), digest, place)
            for key, seen, what in ((shown, seen_prompts, "prompt"), (prompt_id, seen_ids, "prompt_id")):
                if key in seen:
                    raise PipelineError(f"{place}: the same {what} as in {seen[key]}; remove one of them.")
                seen[key] = place
            more = {k: v for k, v in source.items() if k not in OWN}
            split = split_of(source, digest, settings.heldout_fraction, place)
            rows.append({"prompt_id": prompt_id, "messages": messages, "split": split, **more})
    if all(row["split"] != "train" for row in rows):
        raise PipelineError(f"{settings.source}: no prompt has the split 'train'.")
    return prompts_table(rows, settings.source)


def digest_of(value: Any, place: str) -> str:
    """Return the SHA-256 of a conversation, or of a list with more, by which it is split and named."""
    return hashlib.sha256(encoded(json.dumps(value, ensure_ascii=False), place)).hexdigest()


def encoded(text: str, place: str) -> bytes:
    """Return a text in UTF-8; raise PipelineError, naming its place, for one with half of a character."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise PipelineError(f"{place}: half of a character, as cutting an emoji leaves ({error}).") from None


def name_of(column: str, given: Any, digest: str, place: str) -> str:
    """Return a text as it is, a whole number as pandas may write it (3.0) without a point; none: from the hash."""
    if given in (None, ""):
        return digest[:12]
    if isinstance(given, float) and given.is_integer():
        given = int(given)
    if not isinstance(given, (str, int)) or isinstance(given, bool):
        raise PipelineError(f"{place}: a {column} must be text or a whole number, found {given!r}.")
    return str(given)


def split_of(row: dict[str, Any], digest: str, heldout_fraction: float, place: str) -> str:
    """Return the split that a row names, else that of its prompt's `digest`."""
    # By the prompt's own hash: adding prompts later moves no prompt from one side to the other.
    by_hash = "heldout" if int(digest[:8], 16) / 2**32 < heldout_fraction else "train"
    return given_split(row, place) or by_hash


def given_split(row: dict[str, Any], place: str) -> str | None:
    """Return the split that a row names, None where there is none; raise PipelineError for another, with its place."""
    split = row.get("split")
    if split in (None, ""):
        return None
    if split not in SPLITS:
        raise PipelineError(
            f"{place}: split '{split}' is neither 'train' nor 'heldout'.{nearest(str(split), [*SPLITS])}"
        )
    return str(split)


def prompts_table(rows: list[dict[str, Any]], source: str) -> pa.Table:
    """Return rows of prompts as a table; raise PipelineError, naming `source`, for a column of no single type."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = []
    for name in names:
        kind = pa.list_(MESSAGE) if name == "messages" else None
        try:
            name.encode()
            values = uniform([row.get(name) for row in rows])
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
