"""How far the sampler is from the training forward."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def mismatch(policy: Floats, sampler: Floats, kept_mass: Floats) -> dict[str, float]:
    """Return how far the sampler's logprobs are from the training forward's, and what that costs.

    policy, sampler: (tokens,) logprobs by the training forward and by the sampler. kept_mass: the probability of all
    tokens that could have been drawn.
    val/rollout_ess is the effective sample size of the tokens as draws from the policy, as a share of their
    number: (sum w)^2 / (n sum w^2), w = policy probability over that of the draw. Truncated sampling lowers it too.
    """
    drift = np.abs(sampler.astype(np.float64) - policy)
    weights = np.exp(policy.astype(np.float64) - sampler + np.log(kept_mass.astype(np.float64)))
    return {
        "val/rollout_logprob_difference": float(drift.mean()),
        "val/rollout_logprob_difference_p95": float(np.quantile(drift, 0.95)),
        "val/rollout_logprob_difference_max": float(drift.max()),
        "val/rollout_ess": float(weights.sum() ** 2 / (len(weights) * (weights**2).sum())),
    }
