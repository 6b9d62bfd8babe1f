"""Decoding steps as CUDA graphs: a step's thousands of small kernels in one launch, with no Python between them.

The kernels and their shapes are those of the step as it is, and so are its bits. Rows are rounded up to a power of
two, so that few graphs serve a batch from its first step to its last; rows without a sequence lie in slots that are
free.
"""

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

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

    forward: token ids (n, 1), positions (n,) and width to logits (n, V); it reads and writes one and the same cache,
    and may run the same step twice. A model whose step waits for the GPU goes on without graphs, and so does a batch
    for whose graphs there is too little memory.
    """

    def __init__(self, forward: Callable[[Tensor, Tensor, int], Tensor], device: torch.device) -> None:
        self.forward, self.device = forward, device
        self.steps: Counter[tuple[int, int]] = Counter()
        self.captured: dict[tuple[int, int], _Captured] = {}
        self.can_capture: bool | None = None  # not tried yet
        self.width = -1
        self.pool: Any = None

    def __call__(self, ids: list[int], positions: list[int], width: int) -> Tensor:
        """Return the logits (n, V) that follow n tokens `ids` at `positions`; the next call overwrites them."""
        if width != self.width:  # graphs of other widths hold memory, and hardly come again
            self.captured.clear()
            self.pool, self.width = torch.cuda.graph_pool_handle(), width
        key, inputs = (len(ids), width), torch.tensor([ids, positions])
        self.steps[key] += 1
        if self.can_capture is not False and key not in self.captured and self.steps[key] > PLAIN_STEPS:
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
        if self.can_capture is None:
            self.can_capture = not self._waits(inputs, key[1])
        if not self.can_capture:
            return
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, pool=self.pool):
                logits = self._forward(inputs, key[1])
        except RuntimeError:  # too little memory for it, or what no trial finds; the plain step ran
            torch.cuda.set_stream(stream)  # a capture that fails at its end stays on its own
            self.can_capture = False
            self.captured.clear()
        else:
            self.captured[key] = _Captured(graph, inputs, logits)

    def _waits(self, inputs: Tensor, width: int) -> bool:
        """Tell whether the step waits for the GPU, by a trial: a capture that fails would leave torch in disorder."""
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the mode is a prototype
            torch.cuda.set_sync_debug_mode("error")
            try:
                self._forward(inputs, width)
            except RuntimeError as fault:
                if is_machines(fault):
                    raise
                return True
            finally:
                torch.cuda.set_sync_debug_mode(before)
        return False


def in_graphs(device: torch.device) -> bool:
    """Tell whether steps run as graphs there."""
    return device.type == "cuda"


def rows_of_a_step(sequences: int, slots: int) -> int:
    """Return how many rows a step of so many sequences runs."""
    return min(slots, max(LEAST_ROWS, 1 << (sequences - 1).bit_length()))
