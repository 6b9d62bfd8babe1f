"""Gradient groups: a minibatch is dealt into them, and their gradients are added in a fixed binary tree.

So no bit depends on how many workers the groups are spread over: floating-point sums depend on their order.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def deal(lengths: NDArray[np.integer], groups: int) -> list[NDArray[np.int64]]:
    """Return indices in `groups` parts of nearly as many tokens each; some are empty where there are fewer samples.

    Half by half, so that the parts of each worker, which are neighbours, have together as many tokens as another's:
    longest first, each to the half with fewer tokens so far (Graham 1969).
    """
    return _halves(np.argsort(-lengths, kind="stable"), lengths, groups)


def _halves(order: NDArray[np.int64], lengths: NDArray[np.integer], groups: int) -> list[NDArray[np.int64]]:
    if groups == 1:
        return [np.sort(order)]
    halves: tuple[list[int], list[int]] = ([], [])
    tokens = [0, 0]
    for index in order:
        half = int(tokens[1] < tokens[0])
        halves[half].append(int(index))
        tokens[half] += int(lengths[index])
    return [part for half in halves for part in _halves(np.array(half, np.int64), lengths, groups // 2)]


class TreeSum:
    """Adds up tensors of one shape, as many as a power of two: ((p0 + p1) + (p2 + p3)) + ...

    A part is added as soon as it can be: at most log2(n) + 1 are held at a time.
    """

    def __init__(self) -> None:
        self.held: list[tuple[int, Tensor]] = []  # each the sum of 2^level parts

    def add(self, part: Tensor) -> None:
        """Add the next part."""
        level = 0
        while self.held and self.held[-1][0] == level:
            part = self.held.pop()[1] + part
            level += 1
        self.held.append((level, part))

    def total(self) -> Tensor:
        """Return the sum of all parts."""
        ((_, total),) = self.held
        return total


def tree_sum(parts: Iterable[Tensor]) -> Tensor:
    """Return the sum of `parts` as TreeSum adds them."""
    tree = TreeSum()
    for part in parts:
        tree.add(part)
    return tree.total()


def fitting(workers: int, groups: int) -> int:
    """Return the largest number of at most `workers` that has as many of the groups, a power of two, for each."""
    return min(1 << (workers.bit_length() - 1), groups)
