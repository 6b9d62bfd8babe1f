"""How well rewards agree with choices between two answers: accuracy, calibration, and what length has to do with it."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def agreement(differences: Floats) -> Floats:
    """Return of each pair 1 where r_c > r_r, 0 where r_c < r_r, 1/2 where they are equal (N,).

    differences: r_c - r_r (N,). Its mean is the accuracy; TRL counts equal rewards as wrong, which a reward in bf16
    has often.
    """
    return (np.sign(differences) + 1) / 2


def clustered_error(values: Floats, groups: NDArray[np.integer]) -> float | None:
    """Return the standard error of the mean of `values` (N,) that come in groups, such as pairs of one prompt:

        sqrt(G / (G - 1) sum over groups of (sum over the group of (x_i - mean))^2) / N

    groups: each one's group (N,), 0 to G - 1. None for fewer than two. Miller 2024 (arXiv:2411.00640, eq. 4) with the
    factor G / (G - 1), so that groups of one give the usual standard error.
    """
    count = len(np.unique(groups))
    if count < 2:
        return None
    sums = np.bincount(groups, weights=values - values.mean())
    return float(np.sqrt(count / (count - 1) * np.sum(sums**2)) / len(values))


def probabilities(differences: Floats) -> Floats:
    """Return sigmoid(r_c - r_r), what the rewards say of the probability of the choice (N,)."""
    return 0.5 * (1 + np.tanh(0.5 * differences))


def brier_score(differences: Floats) -> float:
    """Return the mean of (1 - sigmoid(r_c - r_r))^2 (Brier 1950): 0 at best, 1/4 for equal rewards."""
    return float(np.mean((1 - probabilities(differences)) ** 2))


def calibration_error(differences: Floats, bins: int = 10) -> float:
    """Return the expected calibration error of sigmoid(r_c - r_r),

        sum over bins of n_b / N |accuracy_b - confidence_b|

    The confidence of a pair is the probability of the answer with the higher reward, from 1/2 to 1, and that range has
    `bins` equal bins. Guo et al. 2017 (arXiv:1706.04599, eq. 3).
    """
    p = probabilities(differences)
    confidence, right = np.maximum(p, 1 - p), agreement(differences)
    places = np.minimum(((confidence - 0.5) * 2 * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(places, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(p))


def by_length(differences: Floats, longer: NDArray[np.integer]) -> dict[str, float]:
    """Return what answers' lengths have to do with choices and rewards, over pairs of unequal lengths.

    longer: tokens of the chosen answer less those of the rejected one (N,). longer_chosen: the share of pairs where
    people chose the longer one, which is the accuracy of "the longer wins". longer_preferred: where the rewards do.
    accuracy_longer, accuracy_shorter: the accuracy where the chosen one is longer, and shorter. Shares of no pair are
    left out.
    """
    right = agreement(differences)
    shares = {
        "longer_chosen": (longer > 0)[longer != 0],
        "longer_preferred": np.where(longer > 0, right, 1 - right)[longer != 0],
        "accuracy_longer": right[longer > 0],
        "accuracy_shorter": right[longer < 0],
    }
    return {name: float(np.mean(values)) for name, values in shares.items() if len(values)}
