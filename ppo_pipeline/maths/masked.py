"""Means over real tokens only: padding never counts."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def whiten(values: Floats, shift_mean: bool = True, eps: float = 1e-8) -> Floats:
    """Return (x - mean) / sqrt(var + eps), over all entries; with `shift_mean` false the mean is added back.

    values: the real tokens of a round, a minibatch or a response, concatenated (N,); no padding.
    The variance is the unbiased one, as in TRL 1.12's `masked_whiten`; a single entry has variance 0 here,
    where TRL raises or divides by zero.
    """
    if values.size == 0:
        return values
    mean = values.mean()
    variance = values.var(ddof=1) if values.size > 1 else 0.0
    whitened = (values - mean) / np.sqrt(variance + eps)
    return whitened if shift_mean else whitened + mean


def whiten_each(values: Floats, lengths: NDArray[np.integer], eps: float = 1e-8) -> Floats:
    """Return `whiten` of each sequence by itself; one of a single entry, or of equal ones, becomes 0.

    values: sequences concatenated (sum of lengths,). lengths: (N,), 1 or more.
    """
    parts = np.split(values, np.cumsum(lengths)[:-1])
    return np.concatenate([whiten(part, eps=eps) for part in parts])
