"""Outputs that appear whole or not at all: write beside the target, then rename. Reading JSON back, checked."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import PipelineError
from ..errors.machine_faults import WRITING


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it replaces `path`, on failure it is removed."""
    with _noted(path):
        partial, _ = _places(path)
        try:
            yield partial
            partial.replace(path)
        finally:
            _remove(partial)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` to fill; on success it replaces `path`, on failure it is removed.

    A folder cannot be replaced by one rename where it already exists, so the old one is moved aside first
    and deleted only after the new one is in place.
    """
    with _noted(path):
        partial, old = _places(path)
        partial.mkdir()
        try:
            yield partial
            if path.exists():
                path.rename(old)
            partial.rename(path)
        except BaseException:
            if old.exists() and not path.exists():
                old.rename(path)
            raise
        finally:
            _remove(partial)
            _remove(old)


@contextmanager
def _noted(path: Path) -> Iterator[None]:
    """Add to an error that `path` was being written: an error of a full disk often names no file."""
    try:
        yield
    except Exception as error:
        error.add_note(f"{WRITING}{path}")
        raise


def _places(path: Path) -> list[Path]:
    """Return where to write, and where to move the old output aside; clear what killed writers of `path` left.

    Killed between the two renames of `atomic_folder`, a writer left the only copy aside: that one comes back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = re.compile(rf"\.{re.escape(path.name)}\.(partial|old)-(\d+)")
    found = [(place, match) for place in path.parent.iterdir() if (match := name.fullmatch(place.name))]
    left = [(place, match[1]) for place, match in found if not is_running(int(match[2]))]
    for place, kind in sorted(left, key=lambda item: item[0].lstat().st_ctime_ns, reverse=True):
        if kind == "old" and not path.exists():
            place.rename(path)
        else:
            _remove(place)
    return [path.with_name(f".{path.name}.{kind}-{os.getpid()}") for kind in ("partial", "old")]


def is_running(pid: int) -> bool:
    """Tell whether another process has this id. In a container one often has the id of the one killed before it."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True


def _remove(path: Path) -> None:
    """Remove a file or folder, whatever of it is there; what cannot be removed stays for the next writer."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def read_json(path: Path, cure: str = "delete it and rerun") -> dict[str, Any]:
    """Return the JSON object in `path`.

    cure: what to do about a damaged file. Raises PipelineError for a file that is absent, or no JSON object in UTF-8.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file; `dvc repro` makes it, `dvc pull` fetches it.") from None
    except (ValueError, RecursionError) as error:
        raise PipelineError(f"{path}: damaged (not valid JSON: {error}); {cure}.") from None
    if not isinstance(value, dict):
        raise PipelineError(f"{path}: damaged (a JSON object expected, found {type(value).__name__}); {cure}.")
    return value


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; non-finite numbers are refused (ValueError)."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def sha256_of(path: Path) -> str:
    """Return the file's SHA-256 as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
