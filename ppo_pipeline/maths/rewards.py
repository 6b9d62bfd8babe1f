"""Token rewards: the KL penalty, and the score on the last token."""

import numpy as np
from numpy.typing import NDArray

from .groups import sums_by_sequence

Floats = NDArray[np.floating]


def kl_penalties(kl: Floats, lengths: NDArray[np.integer], kl_coef: float, where: str) -> Floats:
    """Return the KL's part of each token's reward, in the shape of `kl`.

    kl: per token, sequences concatenated (sum of lengths,), nats. lengths: (N,), 1 or more.
        token          -kl_coef * kl_t
        sequence_sum   -kl_coef * sum of the sequence's kl on its last token, 0 before
        sequence_mean  -kl_coef * mean of the sequence's kl on its last token, 0 before
    """
    kl = kl.astype(np.float64)
    if where == "token":
        return -kl_coef * kl
    if where not in ("sequence_sum", "sequence_mean"):
        raise ValueError(f"unknown KL penalty {where!r}; use token, sequence_sum or sequence_mean")
    sums = sums_by_sequence(kl, lengths)
    penalties = np.zeros_like(kl)
    penalties[np.cumsum(lengths) - 1] = -kl_coef * (sums / lengths if where == "sequence_mean" else sums)
    return penalties


def token_rewards(
    kl: Floats, scores: Floats, lengths: NDArray[np.integer], kl_coef: float, where: str = "token"
) -> Floats:
    """Return the KL penalties, plus each sequence's score at its last token; scores: (N,), the rest as above.

    The last token is the stop token where there is one (Ziegler et al. 2019, arXiv:1909.08593, eq. 2).
    """
    rewards = kl_penalties(kl, lengths, kl_coef, where)
    rewards[np.cumsum(lengths) - 1] += scores
    return rewards
