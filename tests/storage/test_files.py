"""Outputs appear whole or not at all: the old content survives every failure, and nothing partial is left."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ppo_pipeline.storage.files import WRITING, atomic_file, atomic_folder, sha256_of, write_json


def contents(folder: Path) -> dict[str, str]:
    """Every file below `folder`, hidden ones too, by its relative path; a folder ends with a slash."""
    return {
        f"{p.relative_to(folder)}{'/' if p.is_dir() else ''}": "" if p.is_dir() else p.read_text()
        for p in folder.rglob("*")
    }


def test_a_file_appears_under_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "f.txt"
    with atomic_file(target) as partial:
        partial.write_text("new")
        assert not target.exists()
        assert partial.parent == target.parent  # one file system: the rename is atomic
    assert contents(target.parent) == {"f.txt": "new"}


def test_a_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text("old and longer")
    with atomic_file(tmp_path / "f.txt") as partial:
        partial.write_text("new")
        assert (tmp_path / "f.txt").read_text() == "old and longer"
    assert contents(tmp_path) == {"f.txt": "new"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("there", [True, False])
def test_a_failed_file_leaves_what_was_there(tmp_path: Path, error: type[BaseException], there: bool) -> None:
    if there:
        (tmp_path / "f.txt").write_text("old")
    before = contents(tmp_path)
    with pytest.raises(error), atomic_file(tmp_path / "f.txt") as partial:
        partial.write_text("half")
        raise error
    assert contents(tmp_path) == before


def test_a_writer_that_writes_nothing_fails_and_keeps_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text("old")
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "f.txt"):
        pass
    assert contents(tmp_path) == {"f.txt": "old"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder `out` with the file `old`, alone in its parent."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    return tmp_path / "out"


def test_a_folder_is_replaced_as_a_whole(folder: Path) -> None:
    with atomic_folder(folder) as partial:
        assert list(partial.iterdir()) == []
        (partial / "sub").mkdir()
        (partial / "sub" / "new").write_text("new")
        assert (folder / "old").read_text() == "old"
    assert contents(folder.parent) == {"out/": "", "out/sub/": "", "out/sub/new": "new"}


def test_a_folder_appears_where_none_was(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a" / "b") as partial:
        (partial / "new").write_text("new")
        assert not (tmp_path / "a" / "b").exists()
    assert contents(tmp_path) == {"a/": "", "a/b/": "", "a/b/new": "new"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_folder_leaves_what_was_there(folder: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), atomic_folder(folder) as partial:
        (partial / "half").write_text("half")
        raise error
    assert contents(folder.parent) == {"out/": "", "out/old": "old"}


def test_a_failed_rename_puts_the_old_folder_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if "partial" in self.name:
            raise OSError("disk full")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="disk full"), atomic_folder(folder) as partial:
        (partial / "new").write_text("new")
    assert contents(folder.parent) == {"out/": "", "out/old": "old"}


@pytest.mark.parametrize("kind", ["partial", "old"])
def test_what_a_killed_run_left_is_no_obstacle(folder: Path, kind: str) -> None:
    """In a container a process often has the id of the one that was killed before it."""
    left = folder.with_name(f".out.{kind}-{os.getpid()}")
    left.mkdir()
    (left / "stale").write_text("stale")
    with atomic_folder(folder) as partial:
        (partial / "new").write_text("new")
    assert contents(folder.parent) == {"out/": "", "out/new": "new"}


def test_the_only_copy_that_a_killed_run_left_is_put_back_when_the_writer_fails(tmp_path: Path) -> None:
    """Killed between its two renames, a run leaves the old content under the name `.old` alone."""
    left = tmp_path / f".out.old-{os.getpid()}"
    left.mkdir()
    (left / "old").write_text("old")
    with pytest.raises(ValueError, match="no"), atomic_folder(tmp_path / "out"):
        raise ValueError("no")
    assert contents(tmp_path) == {"out/": "", "out/old": "old"}


PROGRAM = """
import os, signal, sys
from pathlib import Path
from ppo_pipeline.storage.files import atomic_file, atomic_folder

target, kind = Path(sys.argv[1]), sys.argv[2]
rename = Path.rename

def kill(self, to):  # between the renames, or after both
    if (kind == "first" and "partial" in self.name) or kind == "half":
        os.kill(os.getpid(), signal.SIGKILL)
    done = rename(self, to)
    if kind == "second" and "partial" in self.name:
        os.kill(os.getpid(), signal.SIGKILL)
    return done

Path.rename = kill
if target.is_dir():
    with atomic_folder(target) as partial:
        (partial / "new").write_text("new")
else:
    with atomic_file(target) as partial:
        partial.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["half", "first", "second"])
def test_the_next_writer_clears_what_a_killed_one_left_and_loses_nothing(folder: Path, kind: str) -> None:
    """A real process killed: before its renames, between them, before the old folder is removed."""
    killed = subprocess.run([sys.executable, "-c", PROGRAM, folder, kind])
    assert killed.returncode == -9
    assert len(list(folder.parent.iterdir())) == 2, "nothing was left, so that nothing is tested"
    with pytest.raises(ValueError, match="no"), atomic_folder(folder):
        raise ValueError("no")
    left = {"out/new": "new"} if kind == "second" else {"out/old": "old"}
    assert contents(folder.parent) == {"out/": "", **left}


def test_a_file_s_leftover_is_cleared_by_its_next_writer_and_by_no_other(tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text("old")
    killed = subprocess.run([sys.executable, "-c", PROGRAM, tmp_path / "f.txt", ""])
    assert killed.returncode == -9
    for name in ("f", "txt", "other", "f.txt.partial"):
        write_json(tmp_path / name, {})
    assert [p.read_text() for p in tmp_path.glob(".*")] == ["half"]
    write_json(tmp_path / "f.txt", {})
    assert not list(tmp_path.glob(".*"))


def test_what_a_running_process_writes_is_left_to_it(folder: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    theirs = {name: folder.with_name(f".out.{name}-{other.pid}") for name in ("partial", "old")}
    for place in theirs.values():
        place.mkdir()
    with atomic_folder(folder):
        pass
    assert all(place.is_dir() for place in theirs.values())
    other.kill()
    other.wait()
    with atomic_folder(folder):
        pass
    assert contents(folder.parent) == {"out/": ""}


def test_of_two_copies_left_aside_the_later_one_comes_back(tmp_path: Path) -> None:
    for pid, text in ((2**31 - 1, "earlier"), (2**31 - 2, "later")):
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "f").write_text(text)
        time.sleep(0.02)
        (tmp_path / "made").rename(tmp_path / f".out.old-{pid}")
    with pytest.raises(ValueError, match="no"), atomic_folder(tmp_path / "out"):
        raise ValueError("no")
    assert contents(tmp_path) == {"out/": "", "out/f": "later"}


def test_an_error_names_the_output(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no") as caught, atomic_file(tmp_path / "f"):
        raise ValueError("no")
    assert caught.value.__notes__ == [f"{WRITING}{tmp_path / 'f'}"]


def test_json_is_indented_utf8_with_its_keys_in_the_given_order(tmp_path: Path) -> None:
    write_json(tmp_path / "m.json", {"b": 1, "a": [0.5, "猫"]})
    assert (tmp_path / "m.json").read_bytes() == '{\n  "b": 1,\n  "a": [\n    0.5,\n    "猫"\n  ]\n}\n'.encode()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_json_refuses_numbers_that_are_not_finite_and_keeps_the_old_file(tmp_path: Path, number: float) -> None:
    write_json(tmp_path / "m.json", {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "m.json", {"a": number})
    assert contents(tmp_path) == {"m.json": '{\n  "a": 1\n}\n'}


def test_sha256_of_a_known_text(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")  # the example of FIPS 180-2
    assert sha256_of(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
