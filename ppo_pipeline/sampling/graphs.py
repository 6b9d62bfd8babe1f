"""Decoding steps as CUDA graphs: a step's thousands of small kernels in one launch, with no Python between them.

The kernels and their shapes are those of the step as it is, and so are its bits. Rows are rounded up to a power of
two, so that few graphs serve a batch from its first step to its last; rows without a sequence lie in slots that are
free.
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors.machine_faults import is_machines

LEAST_ROWS = 8
PLAIN_STEPS = 2  # of a shape before its graph: what runs for the first time allocates, which a capture must not
WIDTH = 256  # keys, where the attention's cost follows them


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    logits: Tensor


class StepGraphs:
    """Runs a batch's steps, from the third one of a shape on as a graph.

    forward: token ids (n, 1), positions (n,) and width to logits (n, V); it reads and writes one and the same cache.
    A model whose step cannot be captured, since it waits for the GPU, goes on without.
    """

    def __init__(self, forward: Callable[[Tensor, Tensor, int], Tensor], device: torch.device) -> None:
        self.forward, self.device = forward, device
        self.steps: Counter[tuple[int, int]] = Counter()
        self.captured: dict[tuple[int, int], _Captured] = {}
        self.can_capture = True
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, ids: list[int], positions: list[int], width: int) -> Tensor:
        """Return the logits (n, V) that follow n tokens `ids` at `positions`; the next call overwrites them."""
        key = (len(ids), width)
        inputs = torch.tensor([ids, positions])
        self.steps[key] += 1
        if self.steps[key] == PLAIN_STEPS + 1 and self.can_capture:
            self._capture(key, inputs.to(self.device))
        if key not in self.captured:
            return self._forward(inputs.to(self.device), width)
        graph, room, logits = self.captured[key]
        room.copy_(inputs)
        graph.replay()
        return logits

    def _forward(self, inputs: Tensor, width: int) -> Tensor:
        return self.forward(inputs[0][:, None], inputs[1], width)

    def _capture(self, key: tuple[int, int], inputs: Tensor) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self.pool):
                logits = self._forward(inputs, key[1])
        except RuntimeError as fault:
            if is_machines(fault):
                raise
            self.can_capture = False
        else:
            self.captured[key] = _Captured(graph, inputs, logits)


def in_graphs(device: torch.device) -> bool:
    """Tell whether steps run as graphs there."""
    return device.type == "cuda"


def rows_of_a_step(sequences: int, slots: int) -> int:
    """Return how many rows a step of so many sequences runs."""
    return min(slots, max(LEAST_ROWS, 1 << (sequences - 1).bit_length()))
