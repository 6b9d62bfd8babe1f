"""A pool of workers: what the heavy stages need of the engine that runs them. local.py has one of this process."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..observe.counter import Counter

if TYPE_CHECKING:  # torch, which a stage without a model does without
    from ..compute.machine import Machine


class Worker(Protocol):
    """A work with its models loaded, in the process that does it.

    facts: what the driver must know of the loaded work, small and the same in every process.
    """

    facts: Any

    def __call__(self, task: Any, counter: Counter) -> Any:
        """Return the task's result; count finished items and tokens on the way."""
        ...


class Work(Protocol):
    """What the workers of a pool do: paths and settings, nothing loaded, so that it can be sent to them."""

    def open(self, machine: "Machine") -> Worker:
        """Load what the work needs."""
        ...


class Pool(Protocol):
    """Workers that do one work after another. machine: what they run on."""

    machine: "Machine"

    def open(self, work: Work) -> Any:
        """Take up a work, in place of the one before; return its facts."""
        ...

    def run(self, tasks: Sequence[Any], counter: Counter) -> Iterator[tuple[int, Any]]:
        """Yield the place of each task and its result, as they are done; the tasks begin in their order.

        A result depends on its task alone, not on who does it. counter: is told of what the workers count.
        """
        ...

    def told(self) -> dict[str, Any]:
        """Return what the stage's record says of the workers."""
        ...

    def close(self) -> None:
        """Let go of the workers."""
        ...
