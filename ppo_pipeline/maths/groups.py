"""Sums over the tokens of a response, and over the responses to a prompt."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]


def sums_by_sequence(values: Floats, lengths: Integers) -> Floats:
    """Return each sequence's sum (N,); values: sequences concatenated (sum of lengths,). lengths: (N,), 1 or more."""
    sums: Floats = np.add.reduceat(values, np.cumsum(lengths) - lengths)
    return sums


def sums_by_group(values: Floats, groups: Integers) -> tuple[Floats, Floats]:
    """Return the sum and the size of each entry's group, in the entries' order; values, groups: (N,)."""
    _, index = np.unique(groups, return_inverse=True)
    return np.bincount(index, values).astype(np.float64)[index], np.bincount(index).astype(np.float64)[index]


def group_centred(values: Floats, groups: Integers) -> Floats:
    """Return each entry less the mean of its group, its own included (N,); values, groups: (N,)."""
    sums, counts = sums_by_group(values, groups)
    return values - sums / counts
