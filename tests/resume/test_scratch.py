"""Snapshots and the scratch folder: whole or not there, of these inputs only, and gone in the end."""

import errno
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.resume.kept_batches import KeptBatches
from ppo_pipeline.resume.scratch import FOLDER, Scratch, remove_done
from ppo_pipeline.resume.snapshots import INTERVAL, Snapshots
from stages import code


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.json").write_text("{}")
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy/weights").write_bytes(b"1234")
    return tmp_path


def scratch(*machine: object) -> Scratch:
    return Scratch("rollout", "r001", (Path("settings.json"), Path("policy")), *machine)


def put(folder: Path) -> None:
    (folder / "text").write_text("whole")


def test_a_newer_snapshot_takes_the_place_of_the_older() -> None:
    kept = Snapshots(Path("s"), "rollout r001")
    assert kept.newest() is None
    for number in range(1, 12):
        kept.save(lambda folder, n=number: (folder / "n").write_text(str(n)))  # type: ignore[misc]
    assert [p.name for p in Path("s").iterdir()] == ["000011"]
    assert (Path("s/000011/n")).read_text() == "11"


def test_one_that_breaks_off_leaves_the_older(capsys: pytest.CaptureFixture[str]) -> None:
    kept = Snapshots(Path("s"), "rollout r001")
    kept.save(put)

    def killed(folder: Path) -> None:
        put(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept.save(killed)
    assert kept.newest() == Path("s/000001")
    kept.save(put)
    assert [p.name for p in Path("s").iterdir()] == ["000002"], "and what was begun is gone"

    def full(folder: Path) -> None:
        put(folder)
        raise OSError(errno.ENOSPC, "No space left on device")

    assert kept.save(full) is None
    assert "rollout r001: no snapshot in s, going on without: [Errno 28]" in capsys.readouterr().err
    assert [p.name for p in Path("s").iterdir()] == ["000002"]
    kept.interval = 0.0
    assert not kept.due(), "it is not tried again"


def test_what_another_writer_has_begun_stays_while_it_may_live() -> None:
    """A process on another machine that is thought dead may still write into the same folder."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = platform.node()
    begun = {
        f"{here}.{os.getppid()}": True,
        f"{here}.{dead.pid}": False,
        "far.1": True,
        "far.2": False,
        "000007": False,
    }
    for name in begun:
        Path("s", f"{name}.partial").mkdir(parents=True)
    Path("s/far.1.partial/text").touch()
    for name in ("far.2", "000007"):
        os.utime(Path("s", f"{name}.partial"), (0, 0))
    kept, seen = Snapshots(Path("s"), "rollout r001"), []

    def write(folder: Path) -> None:
        put(folder)
        seen.append(folder.name)
        Path("s/000005").mkdir()  # by the other one, meanwhile

    assert kept.save(write) == Path("s/000006")
    assert seen == [f"{here}.{os.getpid()}.partial"]
    left = [f"{name}.partial" for name, stays in begun.items() if stays]
    assert sorted(p.name for p in Path("s").iterdir()) == sorted(["000006", *left])


def test_when_a_snapshot_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    kept = Snapshots(Path("s"), "x")
    pauses = []
    for cost in (0.0, 0.5, 1.0, 10.0, 40.0):

        def slow(folder: Path, seconds: float = cost) -> None:
            nonlocal now
            now += seconds

        kept.save(slow)
        started = now
        while not kept.due():
            now += 0.5
        pauses.append(now - started)
    assert pauses == [10.0, 10.0, 20.0, 50.0, 120.0]


@pytest.mark.parametrize(
    ("size", "seconds"), [(0, 10), (40_000_000, 10), (500_000_000, 20), (2_000_000_000, 50), (10_000_000_000, 60)]
)
def test_the_first_snapshot_of_a_large_state_waits_until_it_is_worth_it(
    size: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By half a gigabyte a second: 10 GB take 20 s, of which three times is 60. Later ones wait by what it took."""
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    kept = Snapshots(Path("s"), "x")
    kept.expect(size)
    for pause in (seconds, 10):
        started = now
        while not kept.due():
            now += 0.5
        assert now - started == pause
        kept.save(put)


def test_the_least_time_between_two_is_set_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INTERVAL, "0")
    kept = Snapshots(Path("s"), "x")
    kept.expect(10_000_000_000)
    assert kept.due()
    for wrong in ("-1", "soon", "nan"):
        monkeypatch.setenv(INTERVAL, wrong)
        with pytest.raises(PipelineError, match=f"{INTERVAL}: '{wrong}' is no number of seconds"):
            Snapshots(Path("s"), "x")


def test_the_folder_is_of_these_inputs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = scratch().folder
    assert folder == scratch().folder and folder.parent == FOLDER / "r001/rollout"
    seen = {folder, scratch("cuda").folder}
    Path("settings.json").write_text('{"a": 1}')
    seen.add(scratch().folder)
    Path("policy/weights").write_bytes(b"1235")
    seen.add(scratch().folder)
    Path("policy/more").write_bytes(b"")
    seen.add(scratch().folder)
    monkeypatch.setattr("ppo_pipeline.resume.scratch.READ_WHOLE", 1)
    seen.add(scratch().folder)
    os.utime("policy/weights", ns=(1, 1))
    seen.add(scratch().folder)
    Path("policy/weights").unlink()
    seen.add(scratch().folder)
    monkeypatch.setattr("ppo_pipeline.resume.scratch.PACKAGES", ("torch",))
    seen.add(scratch().folder)
    assert len(seen) == 9


def test_what_is_done_goes_with_the_next_stage() -> None:
    first = scratch()
    first.part("responses").save(put)
    first.finish()
    assert first.part("responses").newest() is not None, "DVC may be killed before it takes the outputs over"
    again = scratch()
    assert again.part("responses").newest() is not None
    again.finish()
    Scratch("reference", "r001", ())
    assert not FOLDER.exists()


def test_what_is_not_done_stays_until_the_stage_ends_with_other_inputs() -> None:
    first = scratch()
    first.part("responses").save(put)
    Scratch("reference", "r002", ())
    remove_done()
    assert first.folder.is_dir()
    second = scratch("cuda")
    assert first.folder.is_dir()
    second.finish()
    assert not first.folder.exists()


def numbers() -> dict[str, np.ndarray]:
    return {"a": np.zeros(6), "b": np.zeros(6, np.float32)}


def fill(kept: KeptBatches, stop: int | None = None) -> list[tuple[str, int]]:
    seen = []
    with kept:
        for which, name in (("one", "a"), ("two", "b")):
            for batch in kept.remaining(which):
                if stop is not None and len(seen) == stop:
                    raise KeyboardInterrupt
                kept.arrays[name][batch] = batch + 0.1
                seen.append((name, batch))
    return seen


@pytest.mark.parametrize("stop", range(7))
def test_finished_batches_are_not_done_again(stop: int) -> None:
    """With the usual interval: what is kept is kept because the work broke off."""
    wanted = numbers()
    every = fill(KeptBatches(None, wanted, range(3), ("one", "two")))
    assert len(every) == 6
    first = KeptBatches(Snapshots(Path("s"), "x"), numbers(), range(3), ("one", "two"))
    if stop < 6:
        with pytest.raises(KeyboardInterrupt):
            fill(first, stop)
    else:
        fill(first)
    found = numbers()
    rest = fill(KeptBatches(Snapshots(Path("s"), "x"), found, range(3), ("one", "two")))
    assert rest == every[stop:] if stop < 6 else rest == every
    assert all(np.array_equal(found[n], wanted[n]) for n in wanted)


def test_batches_of_another_number_are_not_taken_up(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        fill(KeptBatches(Snapshots(Path("s"), "x"), numbers(), range(3), ("one", "two")), 4)
    assert len(fill(KeptBatches(Snapshots(Path("s"), "x"), numbers(), range(2), ("one", "two")))) == 4
    assert "it is of other batches" in capsys.readouterr().err


def test_the_folder_is_of_this_code_alone_with_or_without_dvc(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand the code on disk counts, under DVC the file on which the stage depends: the same where it is current."""
    monkeypatch.delenv("DVC_STAGE", raising=False)
    code.run()
    by_hand = scratch().folder
    monkeypatch.setenv("DVC_STAGE", "rollout@r001")
    assert scratch().folder == by_hand
    written = Path("data/code/rollout.json")
    written.write_text(written.read_text().replace('": "', '": "f', 1))
    assert scratch().folder != by_hand, "an edit that the stage `code` has seen"
    monkeypatch.delenv("DVC_STAGE")
    assert scratch().folder == by_hand, "data/code may be old, or another clone's"
    edited = {"stages/rollout.py": "0" * 64}
    monkeypatch.setattr("ppo_pipeline.resume.scratch.code_of", lambda stage: edited if stage == "rollout" else {})
    assert scratch().folder != by_hand, "an edit that `code` has not seen"
