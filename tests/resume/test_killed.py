"""kill -9 at random moments of a real run, again and again: the hashes are those of a run that was never killed."""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import RARE, there_now
from dvc_project import Project

from ppo_pipeline.resume.scratch import DONE, FOLDER
from ppo_pipeline.resume.snapshots import INTERVAL
from ppo_pipeline.storage.files import sha256_of

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")]
KILLS = int(os.environ.get("KILLS", "32" if RARE else "6"))


def slow_down(project: Project) -> None:
    """Cut the work into many small parts, so that most moments of it have a snapshot before and another behind them."""
    small = {"rollout.batch_size": 2, "rollout.max_new_tokens": 30, "evaluate.batch_size": 1,
             "evaluate.max_new_tokens": 30, "reference.batch_tokens": 20, "update.microbatch_tokens": 20,
             "update.epochs": 3, "compute.threads": 2}  # fmt: skip
    for name, value in small.items():
        project.change(name, value)


def rounds(count: int) -> dict[str, dict[str, str]]:
    return {f"r{i:03d}": {"parent": f"r{i - 1:03d}"} for i in range(1, count + 1)}


def stage_processes(dvc: int) -> list[int]:
    """Return the processes that a `dvc repro` has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = path.parent.name, path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(rest[2]) == dvc and int(pid) != dvc:  # of its process group
            found.append(int(pid))
    return found


def kill_at_random(process: "subprocess.Popen[str]", project: Project, rng: random.Random) -> bool:
    """Kill all of a `dvc repro`, or one time in three the stage alone; return whether it was still running.

    The moment is anywhere from the start of DVC on, anywhere from the start of a stage on, or soon after a snapshot:
    of what a machine of any speed does, some of each.
    """

    def snapshots() -> set[Path]:
        return set(there_now(project.folder / FOLDER, "*/*/*/*/[0-9]*"))

    kind, before = rng.choice(("any", "stage", "snapshot", "snapshot")), snapshots()
    while process.poll() is None and (
        (kind == "stage" and not stage_processes(process.pid)) or (kind == "snapshot" and snapshots() <= before)
    ):
        time.sleep(0.002)
    until = time.monotonic() + rng.uniform(0.0, {"any": 5.0, "stage": 3.0, "snapshot": 0.05}[kind])
    while time.monotonic() < until and process.poll() is None:
        time.sleep(0.002)
    if process.poll() is not None:
        return False
    stages = stage_processes(process.pid)
    if stages and rng.random() < 1 / 3:
        for pid in stages:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    else:
        os.killpg(process.pid, signal.SIGKILL)
    return True


def mend(project: Project, printed: str) -> str | None:
    """Do what docs/resume.md says of a file that DVC itself left half-written."""
    for sign, name in (("RWLock", ".dvc/tmp/rwlock"), ("dvc.lock", "dvc.lock")):
        if sign in printed:
            (project.folder / name).unlink()
            return name
    if "join() argument must be str" in printed:  # DVC was killed between making a folder and writing its one file
        for folder in [*(project.folder / ".dvc/cache/runs").glob("*/*")]:
            if not any(folder.iterdir()):
                folder.rmdir()
        return "run cache"
    return None


def test_killed_again_and_again(ran: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With warm starts two times in three, else with processes of their own."""
    monkeypatch.setenv(INTERVAL, "0")
    (tmp_path / "killed").mkdir()
    project = Project(tmp_path / "killed")
    rng, kills, count, mended, resumed = random.Random(0), 0, 1, [], 0
    slow_down(project)
    project.change("rounds", rounds(count))
    while True:
        resumed += any(not (path / DONE).exists() for path in there_now(project.folder / FOLDER, "*/*/*"))
        monkeypatch.setenv("PPO_PIPELINE_WARM", "0" if rng.random() < 1 / 3 else "1")
        process = project.start("dvc", "repro")
        killed = kills < KILLS and kill_at_random(process, project, rng)
        kills += killed
        _, err = process.communicate()
        if killed:
            continue
        if process.returncode:
            name = mend(project, err)
            assert name, err
            mended.append(name)
        elif kills < KILLS:
            count += 1
            project.change("rounds", rounds(count))
        else:
            break
    print(f"{kills} kills over {count} rounds, {resumed} left a snapshot, mended: {mended}")
    assert kills >= KILLS and resumed

    monkeypatch.delenv(INTERVAL)
    whole = Project.copy_of(ran, tmp_path / "whole")
    (whole.folder / "dvc.lock").unlink()  # what is the same, `base` for one, comes from DVC's cache
    for of_other_settings in ("data/rounds", "metrics"):
        shutil.rmtree(whole.folder / of_other_settings)
    slow_down(whole)
    whole.change("rounds", rounds(count))
    whole.repro()
    assert project.hashes() == whole.hashes()
    assert files(project.folder) == files(whole.folder)


def files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of all that a run leaves; no scratch and no half-written file is among them."""
    found = [path for top in ("data", "metrics") for path in (folder / top).rglob("*") if path.is_file()]
    assert not [path for path in found if re.search("partial|scratch|\\.old", path.as_posix())]
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in found}
