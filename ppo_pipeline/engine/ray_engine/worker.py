"""A worker's process: it opens the work that it is sent, and does its tasks."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch

from ...compute.machine import Machine, set_up
from ...errors import PipelineError
from ...observe.counter import Counter
from ...settings.sections import Compute
from ..pool import Work, Worker
from .nodes import Identity, identity_here


class Counts(NamedTuple):
    """What a worker has counted so far of its task, whose number `turn` is."""

    turn: int = 0
    done: int = 0
    skipped: int = 0
    tokens: int = 0


class Answer(NamedTuple):
    """What a worker returns: the thing itself, its counts, and what the work printed."""

    result: Any
    counts: Counts = Counts()
    printed: str = ""


class PoolWorker:
    """An actor. Its tasks run one at a time; `counts` is answered beside them."""

    def __init__(self, root: str, compute: Compute) -> None:
        os.chdir(root)
        self.compute = compute
        self.counter, self.turn = Counter(), 0
        self.worker: Worker | None = None
        self.machine: Machine | None = None

    def identity(self, sign: Path) -> Answer:
        """Set this process up; return who it is, and what it runs on."""
        with _told_once():
            self.machine = set_up(self.compute)
            found: Identity = identity_here(sign, self.machine)
            return Answer((found, tuple(self.machine)))

    def open(self, work: Work) -> Answer:
        """Load what the work needs; return its facts."""
        assert self.machine is not None
        with _told_once(), _printed() as printed:
            torch.set_num_threads(self.compute.threads)  # holds for the calling thread alone
            self.worker = None  # two works' models need not be in memory at once
            gc.collect()
            self.worker = work.open(self.machine)
            return Answer(self.worker.facts, printed=printed.getvalue())

    def do(self, task: Any, turn: int) -> Answer:
        """Do a task of the work. turn: its number among all that this worker has been given."""
        assert self.worker is not None
        with _told_once(), _printed() as printed:
            torch.set_num_threads(self.compute.threads)
            self.counter, self.turn = Counter(), turn
            result = self.worker(task, self.counter)
            return Answer(result, self._counts(), printed.getvalue())

    @ray.method(concurrency_group="watch")
    def counts(self) -> Counts:
        """Return what is counted so far of the task that is being done; it may be the one before still."""
        return self._counts()

    def _counts(self) -> Counts:
        return Counts(self.turn, self.counter.done, self.counter.skipped, self.counter.tokens)


@contextmanager
def _told_once() -> Iterator[None]:
    """Raise a PipelineError as a plain one: subclasses have arguments of their own and do not survive pickling."""
    try:
        yield
    except PipelineError as error:
        raise PipelineError(error.message) from None


@contextmanager
def _printed() -> Iterator[StringIO]:
    """Catch what the work prints, for the driver to print."""
    text = StringIO()
    with redirect_stdout(text), redirect_stderr(text):
        yield text
