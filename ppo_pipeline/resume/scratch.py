"""What a stage has done so far, kept in data/scratch/ so that a killed one goes on from there.

data/scratch/<round>/<stage>/<key>/ belongs to one stage with exactly these inputs: the key is a hash of them, of the
stage's code and of the versions. A stage that ends marks its folder as done, and a later one removes it: only
then has DVC taken the outputs over. docs/resume.md has the whole.
"""

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from ..observe.run_record import VLLM, version_of
from ..storage.code_fingerprint import code_of
from ..storage.files import read_json, sha256_of
from .snapshots import Snapshots

FOLDER = Path("data/scratch")
DONE = "done"
READ_WHOLE = 1 << 26  # bytes; of larger files size and time stand for the content, as they do for DVC
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pyarrow", *VLLM)
UNREAD = ("__pycache__", ".*", "*~", "#*#", "*.sw[a-p]", "Thumbs.db", "desktop.ini")  # no stage reads it: .dvcignore


class Scratch:
    """The scratch folder of one stage of one round.

    inputs: files and folders that the stage reads; one that is absent counts as such. machine: what else decides the
    numbers (device, dtype, threads).
    """

    def __init__(self, stage: str, round_name: str, inputs: Iterable[Path], *machine: object) -> None:
        self.label = f"{stage} {round_name}"
        self.folder = FOLDER / round_name / stage / key_of(inputs, [code_now(stage), *machine])
        remove_done(self.folder)
        (self.folder / DONE).unlink(missing_ok=True)

    def part(self, name: str) -> Snapshots:
        """Return the snapshots of one part of the stage's work."""
        return Snapshots(self.folder / name, self.label)

    def within(self, name: str) -> "Scratch":
        """Return room for the same work done another time, as with another policy; the whole finishes with this one."""
        inner = copy.copy(self)
        inner.folder = self.folder / name
        return inner

    def finish(self) -> None:
        """Mark what is there as done, when the outputs are written; remove what other inputs left."""
        for other in self.folder.parent.glob("*"):
            if other != self.folder:
                shutil.rmtree(other, ignore_errors=True)
        if self.folder.is_dir():
            (self.folder / DONE).touch()


def remove_done(but: Path | None = None) -> None:
    """Remove the scratch folders of stages that have ended, but one that is about to be used again."""
    for done in FOLDER.glob(f"*/*/*/{DONE}"):
        if done.parent != but:
            shutil.rmtree(done.parent, ignore_errors=True)
    for folder in [*FOLDER.glob("*/*"), *FOLDER.glob("*"), FOLDER]:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def code_now(stage: str) -> list[object]:
    """Return the fingerprints of a stage's code, as the stage `code` has them, and hashes of what reads snapshots.

    Under DVC they are in data/code/, where the stage depends on them; by hand what lies there may be old.
    """
    written = Path("data/code", f"{stage}.json")
    code = read_json(written) if "DVC_STAGE" in os.environ and written.is_file() else code_of(stage)
    return [code, *(sha256_of(path) for path in sorted(Path(__file__).parent.glob("*.py")))]


def key_of(inputs: Iterable[Path], more: Iterable[object]) -> str:
    """Return a hash of what decides a stage's numbers: the files it reads, versions of libraries, and `more`."""
    parts = [
        [str(thing) for thing in more],
        [(name, version_of(name)) for name in PACKAGES],
        [(path.as_posix(), _content(path)) for path in inputs],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _content(path: Path) -> object:
    if path.is_dir():
        names = sorted(p.name for p in path.iterdir())
        return [(n, _content(path / n)) for n in names if not any(fnmatchcase(n, pattern) for pattern in UNREAD)]
    if not path.is_file():
        return None
    found = path.stat()
    if found.st_size > READ_WHOLE:
        return [found.st_size, found.st_mtime_ns]
    return sha256_of(path)
