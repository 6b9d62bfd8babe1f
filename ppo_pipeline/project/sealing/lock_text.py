"""Entries of dvc.lock as text: taken out and put back byte by byte, since DVC's YAML needs seconds for a long file."""

import re
from pathlib import Path
from typing import Any

from ...errors import PipelineError
from ...storage.files import atomic_file

LOCK = Path("dvc.lock")
HEAD = "schema: '2.0'\nstages:\n"
STAGE = re.compile(r"  (?P<key>[^\s#'\"][^\s'\"]*):\s*")


def split(text: str) -> dict[str, str]:
    """Return the entry of each stage, all its lines, by the stage's name.

    DVC writes a stage's name with two spaces before it and all that belongs to it with more.
    """
    blocks: dict[str, str] = {}
    key = None
    for line in _body(text)[1].splitlines(keepends=True):
        match = STAGE.fullmatch(line.rstrip("\r\n"))
        if match:
            key = match["key"]
            blocks[key] = ""
        elif key is None or not line.startswith("   "):
            raise PipelineError(f"{LOCK}: '{line.strip()}' is not in the form that DVC writes; `dvc repro` renews it.")
        blocks[key] += line
    return blocks


def _body(text: str) -> tuple[str, str, str]:
    """Return what stands before the stages' entries, the entries, and what stands behind them."""
    start = re.search(r"^stages:[ ]*\r?\n", text, re.MULTILINE)
    if start is None:
        return text, "", ""
    end = re.compile(r"^\S", re.MULTILINE).search(text, start.end())
    stop = end.start() if end else len(text)
    return text[: start.end()], text[start.end() : stop], text[stop:]


def of_round(blocks: dict[str, str], name: str) -> dict[str, str]:
    """Return those entries that are of the stages of a round, such as rollout@r001."""
    return {key: block for key, block in blocks.items() if key.endswith(f"@{name}")}


def parsed(blocks: dict[str, str]) -> dict[str, Any]:
    """Return entries as maps."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        found: dict[str, Any] = YAML(typ="safe", pure=True).load(HEAD + "".join(blocks.values()))["stages"] or {}
    except (YAMLError, ValueError, KeyError, RecursionError) as error:
        raise PipelineError(f"{LOCK}: not in the form that DVC writes ({error}); `dvc repro` renews it.") from None
    return found


def read() -> dict[str, str]:
    """Return all entries of dvc.lock; none where there is no such file."""
    return split(_bytes_as_text()) if LOCK.is_file() else {}


def take_out(names: list[str]) -> None:
    """Remove the stages of rounds from dvc.lock; all else stays as it is."""
    if not LOCK.is_file():
        return
    text = _bytes_as_text()
    ends = tuple(f"@{name}" for name in names)
    _write(text, {key: block for key, block in split(text).items() if not key.endswith(ends)})


def put_back(blocks: dict[str, str]) -> None:
    """Append entries to dvc.lock, in place of those that it has of the same stages."""
    text = _bytes_as_text().replace("stages: {}", "stages:") if LOCK.is_file() else HEAD
    _write(text, {**split(text), **blocks})


def _bytes_as_text() -> str:
    try:
        return LOCK.read_bytes().decode("utf-8")  # read_text would turn CRLF into LF
    except UnicodeDecodeError as error:
        raise PipelineError(f"{LOCK}: not UTF-8 text ({error}); git has an earlier one.") from None


def _write(old: str, blocks: dict[str, str]) -> None:
    before, entries, behind = _body(old)
    new = "".join(blocks.values())
    if not blocks:
        before = before.replace("stages:", "stages: {}")
    if new != entries:
        with atomic_file(LOCK) as partial:
            partial.write_bytes((before + new + behind).encode("utf-8"))
