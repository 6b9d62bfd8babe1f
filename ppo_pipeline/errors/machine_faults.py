"""What the machine refuses (disk, permissions, memory), told in one line: what happened, to which path, what to do."""

import errno
import re
import tempfile
from pathlib import Path

from .memory import OTHERWISE, out_of_memory

WRITING = "while writing "  # starts the note on an error that names the output
AGAIN = "then run the same command again"
FULL = f"make room (`dvc gc -w` takes what the current files do not need out of DVC's cache), {AGAIN}"
PERMISSION = f"give this user permission to read and write it and its folder, {AGAIN}"
IN_THE_WAY = f"a file is where a folder should be, or the reverse; move it away, {AGAIN}"
CURES = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EFBIG: f"raise the limit of file sizes (`ulimit -f`) or use a file system without one, {AGAIN}",
    errno.EACCES: PERMISSION,
    errno.EPERM: PERMISSION,
    errno.EROFS: f"move the project to a folder that can be written to, {AGAIN}",
    errno.ENOTDIR: IN_THE_WAY,
    errno.EISDIR: IN_THE_WAY,
    errno.EEXIST: IN_THE_WAY,
    errno.EMFILE: f"raise the limit of open files (`ulimit -n`), {AGAIN}",
    errno.ENAMETOOLONG: f"move the project to a folder with a shorter path, {AGAIN}",
    errno.EIO: f"check the disk, {AGAIN}",
}


def told(error: Exception, less_memory: str = OTHERWISE) -> str | None:
    """Return the line for a fault of the machine, None for any other error.

    less_memory: what to do where memory ran out.
    """
    number = errno_of(error)
    if out_of_memory(error) or number == errno.ENOMEM:
        size = re.search(r"tried to allocate [\d.]+ ?\w+", str(error), re.IGNORECASE)
        reason = size.group().lower() if size else (str(error).splitlines() or ["the system gives no more"])[0]
        return f"out of memory ({reason:.200}); {less_memory}. No output is half-written."
    if number not in CURES:
        return None
    written = [note for note in getattr(error, "__notes__", ()) if note.startswith(WRITING)]
    reason = (isinstance(error, OSError) and error.strerror) or str(error)
    if written:  # the last one is the output; those before it are files within
        path = written[-1].removeprefix(WRITING)
        return f"{path}: cannot be written ({reason}); {CURES[number]}. What was there before is whole."
    names = [n for n in (getattr(error, "filename2", None), getattr(error, "filename", None)) if n is not None]
    path = str(names[0]) if names else f"a file in {Path.cwd()} or {tempfile.gettempdir()}"
    return f"{path}: {reason}; {CURES[number]}. No output is half-written."


def is_machines(error: Exception) -> bool:
    """Tell whether the machine is to blame, and not what a file holds."""
    return told(error) is not None


def errno_of(error: Exception) -> int | None:
    """Return the system's error number: an OSError's own, or the one in the text of a SafetensorError."""
    if isinstance(error, OSError):
        return error.errno
    if type(error).__name__ != "SafetensorError":
        return None
    found = re.search(r"\b(?:code: |os error )(\d+)", str(error))
    return int(found.group(1)) if found else None
