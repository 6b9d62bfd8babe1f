"""Runs `dvc repro` in the folders of several seeds, some at a time."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from ...errors import PipelineError
from .experiments import experiment
from .seed_folder import SeedFolder

PATIENCE = 20.0  # seconds for a run to end by itself once told to
LOOKS = 0.2  # seconds between two looks at what runs


@dataclass(frozen=True)
class Ended:
    """A run that has ended: its seconds, and its exit code."""

    folder: SeedFolder
    seconds: float
    code: int


def cores() -> int:
    """Return the number of cores here."""
    return os.cpu_count() or 1


def environment(jobs: int) -> dict[str, str]:
    """Return the environment of a run: this Python's commands, and a share of the cores if others run beside it.

    A run alone keeps what this process has: the number of threads decides how numbers are rounded.
    """
    found = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    if jobs > 1:
        found["OMP_NUM_THREADS"] = str(max(1, cores() // jobs))
    return found


@contextmanager
def alone(name: str) -> Iterator[int]:
    """Hold a lock on the run `name`; yield its descriptor, by which the processes started here hold it too.

    So folders that a killed command left at work are not touched. Raises PipelineError where it is held.
    """
    path = Path(".dvc/tmp/seeds", f"{name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PipelineError(
                f"--name {name}: its seeds are being computed already; wait, end that command, or give another --name."
            ) from None
        yield file.fileno()


def run_all(
    folders: Sequence[SeedFolder], jobs: int, lock: int, prepare: Callable[[SeedFolder], None]
) -> Iterator[Ended]:
    """Run the seeds, `jobs` at a time, and yield each as it ends; when this stops early, so do the runs.

    prepare: makes a folder ready, right before its run. Where several run at once, what all of them need is made first.
    """
    waiting = list(folders)
    running: dict[int, tuple[SeedFolder, subprocess.Popen[bytes], float]] = {}
    first: list[subprocess.Popen[bytes]] = []
    with _terminable():
        try:
            if jobs > 1 and waiting:
                prepare(waiting[0])
                first.append(_start(waiting[0], jobs, lock, "base", "prompts"))
                first[0].wait()  # where it fails, so will the whole run, and say why
            while waiting or running:
                while waiting and len(running) < jobs:
                    folder = waiting.pop(0)
                    prepare(folder)
                    running[folder.seed] = (folder, _start(folder, jobs, lock), time.monotonic())
                time.sleep(LOOKS)
                for seed, (folder, process, began) in list(running.items()):
                    if (code := process.poll()) is not None:
                        del running[seed]
                        yield Ended(folder, time.monotonic() - began, code)
        finally:
            _end([*first, *(process for _, process, _ in running.values())])


def _start(folder: SeedFolder, jobs: int, lock: int, *targets: str) -> "subprocess.Popen[bytes]":
    folder.log.parent.mkdir(parents=True, exist_ok=True)
    with folder.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro", *targets],
            cwd=folder.path,
            env=environment(jobs) | {"DVC_EXP_NAME": experiment(folder.name, folder.seed)},  # as in an experiment
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that all of its processes can be told to end
            pass_fds=(lock,),
        )


def _end(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Tell the processes to end, and those that they started; the deaf ones are killed."""
    at_work = [process for process in processes if process.poll() is None]
    for process in at_work:
        os.killpg(process.pid, signal.SIGTERM)
    for process in at_work:
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end this process as Ctrl-C does, so that its runs end too."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
