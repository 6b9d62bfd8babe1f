"""Hashes of the models that params.yaml names by a folder or file of this machine: nothing else tells that one changed.

The stage `sources` writes them at each `dvc repro`; `base` and the rewards depend on its files. A file is hashed again
only where its size or time changed since: data/scratch/hashes.json remembers.
"""

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from .files import read_json, sha256_of, write_json
from .params import ROOT, Params

SOURCES = Path("data/sources")
REMEMBERED = Path("data/scratch/hashes.json")
FRESH_NS = 2_000_000_000  # a file that was written so shortly before may be written again at the same time, told apart
FOLDERS = ("additional_chat_templates",)  # within a model's folder, what transformers reads too


class Hashes:
    """SHA-256 of files by path, size and time; `save` keeps what was found for the next process."""

    def __init__(self) -> None:
        self.known: dict[str, list[Any]] = {}
        with suppress(Exception):  # none yet, or damaged: all is hashed again
            self.known = read_json(REMEMBERED)
        self.found: dict[str, list[Any]] = {}
        self.asked: set[str] = set()

    def of(self, path: Path) -> str:
        """Return a file's SHA-256."""
        place, status = str(path.resolve()), path.stat()
        self.asked.add(place)
        state = [status.st_size, status.st_mtime_ns]
        entry = self.known.get(place)
        fits = isinstance(entry, list) and len(entry) == 3 and entry[:2] == state
        digest = str(entry[2]) if fits and entry is not None else sha256_of(path)
        if time.time_ns() - status.st_mtime_ns > FRESH_NS:
            self.found[place] = [*state, digest]
        return digest

    def save(self) -> None:
        """Remember the hashes of the files that were asked for."""
        if self.found != self.known:
            REMEMBERED.parent.mkdir(parents=True, exist_ok=True)
            write_json(REMEMBERED, self.found)


def source_texts(params: Params, hashes: Hashes) -> dict[str, str]:
    """Return path within data/sources/ and text of each file: base.json, rewards/<round>.json.

    A model of the hub or of the package has no files here. One that has gone from its place since keeps its record:
    what was made of it may be in DVC's cache.
    """
    texts = {"base.json": _text(_record(params.base.model, SOURCES / "base.json", None, hashes))}
    for name in [ROOT, *params.rounds]:
        place, records = f"rewards/{name}.json", {}
        for component in params.of_round(name).reward.components:
            if component.type == "model":
                records[component.name] = _record(component.model, SOURCES / place, component.name, hashes)
        texts[place] = _text(records)
    return texts


def _record(model: str, before: Path, key: str | None, hashes: Hashes) -> dict[str, Any]:
    """Return the name in params.yaml and the hashes by file; `before`: the record's last text, `key`: where in it."""
    path = Path(model).expanduser()
    files = [path] if path.is_file() else []
    if path.is_dir():
        folders = [path, *(path / name for name in FOLDERS if (path / name).is_dir())]
        files = [p for folder in folders for p in sorted(folder.iterdir()) if p.is_file() and p.name[0] != "."]
    top = path if path.is_dir() else path.parent
    if not files:
        with suppress(Exception):  # there is none, or a damaged one
            old = read_json(before) if key is None else read_json(before)[key]
            if old["model"] == model:
                return dict(old)
    return {"model": model, "files": {p.relative_to(top).as_posix(): hashes.of(p) for p in files}}


def _text(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def is_current(texts: dict[str, str]) -> bool:
    """Tell whether data/sources/ has these texts and no other."""
    found = {p.relative_to(SOURCES).as_posix(): p.read_text(encoding="utf-8") for p in SOURCES.rglob("*.json")}
    return found == texts
