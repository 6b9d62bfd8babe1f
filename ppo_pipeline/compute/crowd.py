"""Fewer threads while other processes want the processors, all of them again when these are free.

OpenMP's threads wait for each other at hundreds of barriers a step, by turning in a loop. Where a partner has lost its
processor to another process, each barrier lasts until the scheduler gives it back: beside three busy processes two
threads decode 5 tokens/s on two cores, one thread 110. So `look`, called between steps, takes as many threads as there
are processors free or ours: at 0.3 of a processor below a whole number it still counts as free.

A step must give the same bits with any number of threads, or a run would not be repeatable. `alike` tries the machine's
products; what sums over threads (the norm of a large gradient) runs outside of `sharing`, with all of them.
"""

import functools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from . import onednn

WINDOW = 0.25  # seconds between two looks; shorter ones see single ticks of the kernel's clock, 10 ms
LENIENT = 0.3  # of a processor that others may take before a thread steps down
STAT = Path("/proc/stat")
Product = Callable[[Tensor, Tensor], Tensor]
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class Seen(NamedTuple):
    """Seconds: of the clock, of idle processors that this process may use, of its own CPU time."""

    clock: float
    idle: float
    own: float


class Crowd:
    """Chooses between 1 and `asked` threads. seen: by the last look; None where threads do not step down."""

    def __init__(self) -> None:
        self.asked, self.depth = 0, 0
        self.seen: Seen | None = None

    def begin(self, steps_down: bool, dtype: torch.dtype) -> None:
        """Take the threads that torch has now as those asked for; dtype: of the model that they are for."""
        self.asked, self.depth = torch.get_num_threads(), 0
        self.seen = see() if steps_down and self.asked > 1 and STAT.is_file() and alike(self.asked, dtype) else None

    def look(self) -> None:
        """Within `sharing`, set as many threads as are free; not oftener than each WINDOW seconds."""
        if self.depth and self.seen is not None and time.monotonic() - self.seen.clock >= WINDOW:
            now = see()
            torch.set_num_threads(free(self.seen, now, self.asked))
            self.seen = now

    @contextmanager
    def sharing(self, allowed: bool = True) -> Iterator[None]:
        """Let `look` choose until the end of the block, where all threads are back; not where it is not `allowed`."""
        if not allowed:
            yield
            return
        self.depth += 1
        try:
            self.look()
            yield
        finally:
            self.depth -= 1
            if not self.depth and self.seen is not None:
                torch.set_num_threads(self.asked)


def see() -> Seen:
    """Return the clocks of the processors that this process may use, and its own."""
    mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    idle = 0
    for line in STAT.read_text(encoding="ascii").splitlines():
        name, *ticks = line.split()
        if name in mine:
            idle += int(ticks[3]) + int(ticks[4])  # idle, and idle while a disk is waited for
    return Seen(time.monotonic(), idle / TICKS, time.process_time())


def free(before: Seen, now: Seen, asked: int) -> int:
    """Return how many threads, of 1 to `asked`, the processors have room for that were idle or ours in between."""
    seconds = now.clock - before.clock
    room = (now.idle - before.idle + now.own - before.own) / seconds
    return max(1, min(asked, int(room + LENIENT)))


@functools.cache
def alike(threads: int, dtype: torch.dtype) -> bool:
    """Tell whether products of few and of many rows have the same bits with any number of threads up to this one.

    dtype: tried beside fp32, in which LoRA, critics and heads may be.
    """
    before = torch.get_num_threads()
    generator = torch.Generator().manual_seed(0)
    tried = [1, *(count for count in (threads // 2, threads - 1) if count > 1), threads]
    try:
        for rows, inside, out in ((1, 576, 1536), (48, 1536, 576), (600, 576, 576), (600, 576, 8), (8, 600, 576)):
            numbers = [torch.randn(shape, generator=generator) for shape in ((rows, inside), (inside, out))]
            for kind in {dtype, torch.float32}:
                x, weight = (each.to(kind) for each in numbers)
                if not all(_same(product, x, given, tried) for product, given in _products(weight)):
                    return False
    finally:
        torch.set_num_threads(before)
    return True


def _products(weight: Tensor) -> Iterator[tuple[Product, Tensor]]:
    """Yield the kinds of product with a weight (in, out), each with the form of it that it takes."""
    yield torch.matmul, weight
    if onednn.serves(weight.dtype):
        yield onednn.product, onednn.reordered(weight.t())


def _same(product: Product, x: Tensor, weight: Tensor, threads: list[int]) -> bool:
    """Tell whether a product has the same bits with each of these numbers of threads; the last one stays set."""
    made = []
    for count in threads:
        torch.set_num_threads(count)
        made.append(product(x, weight))
    return all(torch.equal(made[0], other) for other in made[1:])


_crowd = Crowd()
begin, look, sharing = _crowd.begin, _crowd.look, _crowd.sharing


def asked() -> int:
    """Return the threads asked for, however many are at work now."""
    return _crowd.asked if _crowd.depth else torch.get_num_threads()
