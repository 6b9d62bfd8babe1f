"""Means over real tokens only: padding never counts."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def whiten(values: Floats, shift_mean: bool = True, eps: float = 1e-8) -> Floats:
    """Return (x - mean) / sqrt(var + eps), over all entries; with `shift_mean` false the mean is added back.

    values: the real tokens of a whole round, concatenated (N,); no padding.
    The variance is the unbiased one, as in TRL 1.12's `masked_whiten`; a single entry has variance 0 here,
    where TRL raises or divides by zero.
    """
    if values.size == 0:
        return values
    mean = values.mean()
    variance = values.var(ddof=1) if values.size > 1 else 0.0
    whitened = (values - mean) / np.sqrt(variance + eps)
    return whitened if shift_mean else whitened + mean
