"""What happens to a response's score before it becomes a reward: missing EOS, length, running scale, clip."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def judge_missing_eos(
    scores: Floats, cut: NDArray[np.bool_], penalty: float | None, replacement: float | None
) -> Floats:
    """Return the scores with those of responses that were cut by length lowered by `penalty`, or replaced.

    scores, cut: (N,). TRL's missing_eos_penalty subtracts; its older non_eos score replaces. None does neither.
    """
    if replacement is not None:
        return np.where(cut, replacement, scores)
    return scores - (penalty or 0.0) * cut


def overlong_penalties(lengths: NDArray[np.integer], limit: int, buffer: int, penalty: float) -> Floats:
    """Return what a response of l tokens loses for its length (N,), 0 or less.

        0 up to limit - buffer tokens, then -penalty (l - (limit - buffer)) / buffer, so that -penalty at the limit

    lengths: (N,), at most `limit`, where a response is cut. Source: soft overlong punishment of DAPO (Yu et al. 2025,
    arXiv:2503.14476, eq. 13), whose penalty is 1; verl's overlong_buffer has len and penalty_factor for these.
    """
    return -penalty * np.maximum(lengths - (limit - buffer), 0) / buffer


def merged_moments(count: int, mean: float, variance: float, values: Floats) -> tuple[int, float, float]:
    """Return count, mean and biased variance of what was seen before together with `values` (N,).

        mean' = mean + d n_b / n,   var' n = var n_a + var_b n_b + d^2 n_a n_b / n,   d = mean_b - mean

    Source: Chan, Golub and LeVeque 1979.
    """
    added = len(values)
    if not added:
        return count, mean, variance
    total = count + added
    difference = float(values.mean()) - mean
    squares = variance * count + float(values.var()) * added + difference**2 * count * added / total
    return total, mean + difference * added / total, squares / total


def scaled(scores: Floats, count: int, mean: float, variance: float, shift: bool, eps: float = 1e-8) -> Floats:
    """Return the scores divided by the running standard deviation (unbiased); with `shift` less the running mean.

    Where fewer than two scores were seen, or all were equal, the deviation counts as 1.
    """
    deviation = np.sqrt(variance * count / (count - 1)) if count > 1 else 0.0
    return (scores - (mean if shift else 0.0)) / (deviation if deviation > eps else 1.0)
