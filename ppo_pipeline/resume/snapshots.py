"""Snapshots of work that is not finished: whole or not there, the newest one only, never dearer than what they save."""

import json
import os
import platform
import shutil
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from ..errors import PipelineError
from ..observe.progress import result
from ..storage.files import is_running

INTERVAL = "PPO_PIPELINE_SNAPSHOT_SECONDS"
SECONDS = 10.0
STALE = 3600.0
BYTES_PER_SECOND = 0.5e9  # written to a common disk, and read again for their checksum
SUMS = "crc32.json"


class Snapshots:
    """Snapshots in `folder`; a newer one takes the older one's place. label: of the stage, for what is printed.

    The environment variable PPO_PIPELINE_SNAPSHOT_SECONDS sets the least time between two: 10 where it is not set.
    No output depends on it.
    """

    def __init__(self, folder: Path, label: str) -> None:
        self.folder, self.label = folder, label
        self.interval = _seconds()
        self.last, self.cost = time.perf_counter(), 0.0
        self.refused = False

    def part(self, name: str) -> "Snapshots":
        """Return the snapshots of a part of this work that is done by itself; this whole then has none."""
        return Snapshots(self.folder / name, self.label)

    def expect(self, size: int) -> None:
        """Take note of how many bytes a snapshot will have: the first one, too, is to be worth what it takes.

        Where no time at all is asked for between two, it is made at once.
        """
        if self.interval:
            self.cost = max(self.cost, size / BYTES_PER_SECOND)

    def due(self) -> bool:
        """Tell whether it is time for a snapshot."""
        return not self.refused and time.perf_counter() - self.last >= self._pause()

    def _pause(self) -> float:
        """Return the seconds between two snapshots: 20 times what one takes, but 50 at most, that no more than a
        minute is lost; where one takes longer than 17 seconds, 3 times that."""
        return max(self.interval, min(20 * self.cost, max(50.0, 3 * self.cost)))

    def save(self, write: Callable[[Path], None]) -> Path | None:
        """Have `write` fill a folder, which is the newest snapshot from then on; return it.

        Where there is no room for it the stage goes on without snapshots: None.
        """
        started = time.perf_counter()
        partial = self.folder / f"{platform.node()}.{os.getpid()}.partial"  # machines may share the folder
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            write(partial)
            (partial / SUMS).write_text(json.dumps(_sums(partial)), encoding="utf-8")
            target = self.folder / f"{_number(self.newest()) + 1:06d}"
            partial.rename(target)
        except Exception as error:  # no room, of whatever library; the stage itself can do without
            shutil.rmtree(partial, ignore_errors=True)
            print(f"{self.label}: no snapshot in {self.folder}, going on without: {error}", file=sys.stderr)
            self.refused = True
            return None
        for old in self.folder.iterdir():
            if _is_stale(old, target):
                shutil.rmtree(old, ignore_errors=True)
        self.last = time.perf_counter()
        self.cost = self.last - started
        return target

    def newest(self) -> Path | None:
        """Return the newest snapshot's folder; None where there is none."""
        whole = [path for path in self.folder.glob("*") if path.name.isdigit()]
        return max(whole, key=_number, default=None)

    def load(self, read: Callable[[Path], str]) -> bool:
        """Have `read` take up the newest snapshot, if there is one, and print what it says of it.

        One that is damaged, as a loss of power may leave it, is removed; `read` must change nothing before it has
        read everything. Returns whether there was one.
        """
        folder = self.newest()
        if folder is None:
            return False
        try:
            if _sums(folder) != json.loads((folder / SUMS).read_text(encoding="utf-8")):
                raise ValueError("its files are not what was written")
            text = read(folder)
        except (OSError, ValueError, KeyError, PipelineError) as error:
            print(f"{self.label}: {folder} is damaged, starting anew: {error}", file=sys.stderr)
            shutil.rmtree(folder)
            return False
        result(self.label, f"goes on from a snapshot, {text}")
        return True


def _sums(folder: Path) -> dict[str, int]:
    return {path.name: _crc32(path) for path in sorted(folder.iterdir()) if path.name != SUMS}


def _crc32(path: Path) -> int:
    """Return a checksum against accidents; gigabytes a second, where a cryptographic hash would take longer than
    the writing."""
    found = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found = zlib.crc32(block, found)
    return found


def _is_stale(folder: Path, newest: Path) -> bool:
    """Tell whether nobody needs a folder beside the newest snapshot: an older one, or what a dead writer left.

    A process on another machine that is thought dead may still write; what it has not touched for STALE seconds is
    left over.
    """
    if folder.name.isdigit():
        return _number(folder) < _number(newest)
    host, _, process = folder.name.removesuffix(".partial").rpartition(".")
    if host == platform.node() and process.isdigit():
        return not is_running(int(process))
    try:
        return time.time() - max(path.stat().st_mtime for path in (folder, *folder.iterdir())) > STALE
    except OSError:  # renamed or removed meanwhile
        return False


def _number(folder: Path | None) -> int:
    return int(folder.name) if folder else 0


def _seconds() -> float:
    text = os.environ.get(INTERVAL, "")
    try:
        seconds = float(text or SECONDS)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise PipelineError(f"{INTERVAL}: '{text}' is no number of seconds, 0 or more.")
    return seconds
