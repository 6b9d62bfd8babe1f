"""The pool of one: the stage's own process."""

from collections.abc import Iterator, Sequence
from typing import Any

from ..compute.machine import set_up
from ..observe.counter import Counter
from ..settings.sections import Compute
from .pool import Work, Worker


class LocalPool:
    """A Pool without other processes. compute: None for works that set themselves up."""

    def __init__(self, compute: Compute | None = None) -> None:
        self.machine: Any = set_up(compute) if compute is not None else None
        self.worker: Worker | None = None

    def open(self, work: Work) -> Any:
        """Load what the work needs, here; return its facts."""
        self.worker = None  # two works' models need not be in memory at once
        self.worker = work.open(self.machine)
        return self.worker.facts

    def run(self, tasks: Sequence[Any], counter: Counter) -> Iterator[tuple[int, Any]]:
        """Yield the place of each task and its result, in their order."""
        assert self.worker is not None
        for place, task in enumerate(tasks):
            yield place, self.worker(task, counter)

    def told(self) -> dict[str, Any]:
        """Return nothing: the stage's record has this process."""
        return {}

    def close(self) -> None:
        """Let go of the models."""
        self.worker = None
