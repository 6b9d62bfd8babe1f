"""SPO: each response against what responses to its prompt were worth in earlier rounds."""

import numpy as np

from ..groups import sums_by_sequence
from .registry import Estimated, Floats, Integers, estimator


@estimator(
    "spo",
    about="without a critic, the response's reward less its prompt's running mean of earlier rounds, whitened over the "
    "round",
    per_response=True,
    whiten="round",
)
def spo(rewards: Floats, lengths: Integers, remembered: Floats) -> Estimated:
    """Return A_i = R_i - v(x_i) at each token of response i, R the sum of its rewards; there are no returns to learn.

    rewards: per token, sequences concatenated (sum of lengths,). lengths: (N,). remembered: (N,) v, the running mean
    of R over the prompt's earlier responses; NaN for a prompt that has none: the mean of the round's R takes its place.
    Source: Single-stream Policy Optimization (Xu and Ding 2025, arXiv:2509.13232; verl's recipe/spo). There R is 0 or
    1 and v the mean of a Beta distribution; how fast it forgets follows the KL of the policies (rho in 0.875 to 0.96),
    and its first value comes from responses sampled beforehand. Here R is any number, rho is fixed, and nothing is
    sampled for it. Whitening, which the stage does, weighs responses by their tokens; there each counts once.
    """
    sums = sums_by_sequence(rewards, lengths)
    baselines = np.where(np.isnan(remembered), sums.mean(), remembered)
    return Estimated(np.repeat(sums - baselines, lengths), None)
