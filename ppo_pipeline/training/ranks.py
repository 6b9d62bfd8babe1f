"""The processes that make one update together: each does its share, and all come to the same bits.

`Ranks` is one process alone; `ProcessRanks` are those of torch.distributed, which is imported nowhere else.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import PipelineError
from ..errors.machine_faults import told
from ..errors.memory import OTHERWISE
from .groups import tree_sum

Thing = TypeVar("Thing")


class Ranks:
    """One process; rank 0 of 1. waited: seconds in exchange with the others, most of it for the slowest."""

    rank, size, waited = 0, 1, 0.0

    def gather(self, work: Callable[[], Thing]) -> list[Thing]:
        """Do `work` on each rank; return what came of it, in rank order, on all of them.

        A PipelineError of one rank is raised by all, the lowest rank's where there are several: else the others would
        wait for that rank for ever.
        """
        return [work()]

    def share(self, work: Callable[[], Thing]) -> Thing:
        """Do `work` on rank 0 alone; return what came of it, or raise its PipelineError, on all ranks."""
        return work()

    def tree_sum(self, flat: Tensor) -> Tensor:
        """Return the sum of all ranks' `flat` (n,), each a part of groups.tree_sum in rank order, on all ranks."""
        return flat


class ProcessRanks(Ranks):
    """The ranks of torch.distributed's process group, which is there already.

    Objects travel pickled from process to process, never to disk. less_memory: what to do where memory ran out: such
    faults of the machine are told as PipelineErrors, by all.
    """

    def __init__(self, less_memory: str = OTHERWISE) -> None:
        import torch.distributed as dist

        self.dist, self.less_memory = dist, less_memory
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        on_gpu = dist.get_backend() == "nccl"  # gloo moves what is in memory
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")

    def gather(self, work: Callable[[], Thing]) -> list[Thing]:
        """As Ranks.gather."""
        made = self._tried(work)
        found: list[Any] = [None] * self.size
        with self._waiting():
            self.dist.all_gather_object(found, made)
        return [_unless_error(thing) for thing in found]

    def share(self, work: Callable[[], Thing]) -> Thing:
        """As Ranks.share."""
        made: list[Any] = [self._tried(work) if self.rank == 0 else None]
        with self._waiting():
            self.dist.broadcast_object_list(made, src=0)
        thing: Thing = _unless_error(made[0])
        return thing

    def tree_sum(self, flat: Tensor) -> Tensor:
        """As Ranks.tree_sum. Each rank adds one slice of all ranks' tensors; the backend adds nothing itself."""
        width = -(-flat.numel() // self.size)
        sent = torch.zeros(width * self.size, dtype=flat.dtype, device=self.device)
        sent[: flat.numel()] = flat
        received = torch.empty_like(sent)
        with self._waiting():
            self.dist.all_to_all_single(received, sent)
            self.dist.all_gather([*sent.view(self.size, width)], tree_sum(received.view(self.size, width)))
        return sent[: flat.numel()].to(flat.device)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.waited += time.perf_counter() - started

    def _tried(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except PipelineError as error:
            plain = type(error).__init__ is PipelineError.__init__  # else it does not survive pickling
            return error if plain else PipelineError(error.message)
        except Exception as error:
            text = told(error, self.less_memory)
            if text is None:
                raise
            return PipelineError(text)


def _unless_error(thing: Any) -> Any:
    if isinstance(thing, PipelineError):
        raise thing
    return thing
