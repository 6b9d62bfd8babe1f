"""Token rewards: the KL penalty of every token, and the score on the last one."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def token_rewards(kl: Floats, scores: Floats, lengths: NDArray[np.integer], kl_coef: float) -> Floats:
    """Return r_t = -kl_coef * kl_t, plus the sequence's score at its last token.

    kl: per token, sequences concatenated (sum of lengths,), nats. scores: (N,). lengths: (N,), 1 or more.
    The last token is the stop token where there is one (Ziegler et al. 2019, arXiv:1909.08593, eq. 2).
    """
    rewards = -kl_coef * kl.astype(np.float64)
    rewards[np.cumsum(lengths) - 1] += scores
    return rewards
