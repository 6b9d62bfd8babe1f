"""A work that several processes do together, each its part: what the engine that runs them needs of it."""

from typing import TYPE_CHECKING, Any, Protocol

from ..observe.counter import Counter

if TYPE_CHECKING:
    from ..compute.machine import Machine


class Together(Protocol):
    """A work of paths and settings, nothing loaded, so that it can be sent to other processes."""

    def ranks(self, workers: int) -> int:
        """Return how many of so many workers can have a part in it."""
        ...

    def __call__(self, machine: "Machine", counter: Counter, many: bool) -> Any:
        """Do it, or this process's part; return plain data.

        many: the process is a rank of torch.distributed, whose process group is there. counter: what rank 0 counts is
        shown. The ranks must agree on a PipelineError: all raise it.
        """
        ...
