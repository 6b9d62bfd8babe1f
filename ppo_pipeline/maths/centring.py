"""A shift of all rewards by a number, made of the weights of a head that has no bias."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def constant_direction(hidden: Floats) -> Floats:
    """Return the direction d (H,) along which hidden states differ least, scaled so that their mean is 1 there.

        minimise d' (S + k I) d  subject to  d' m = 1:   d = (S + k I)^-1 m / (m' (S + k I)^-1 m),   k = tr(S) / N

    m, S: mean and covariance of `hidden` (N, H), last hidden states of N answers. For a head r = w' h without a bias,
    w - c d lowers the mean of r over these answers by exactly c, and r of any answer by about c: how little else
    changes is what d makes smallest. Where some direction is exactly constant, as behind a LayerNorm with a bias, d is
    that but for k. k keeps d from fitting these N answers alone where N is not far above H; it is what the sampling
    error of S adds to each of its eigenvalues, on average over directions (as in Ledoit and Wolf 2004). Computed in
    fp64. Raises ValueError for hidden states whose mean is 0.
    """
    values = np.asarray(hidden, np.float64)
    mean = values.mean(0)
    if not mean.any():
        raise ValueError("hidden states of mean 0")
    apart = values - mean
    covariance = apart.T @ apart / len(values)
    ridge = np.trace(covariance) / len(values)
    least = np.finfo(np.float64).eps * (mean @ mean) / len(mean)  # of equal states, whose covariance is 0
    covariance[np.diag_indices_from(covariance)] += max(ridge, least)
    direction = np.linalg.solve(covariance, mean)
    return direction / (mean @ direction)
