"""Estimators of KL(policy || reference) from sampled tokens.

Source: J. Schulman, "Approximating KL divergence" (2020), http://joschu.net/blog/kl-approx.html. With
lp = log policy, ref = log reference, of a token sampled from the policy:

    k1 = lp - ref                         unbiased, high variance, can be negative
    k2 = (lp - ref)^2 / 2                 biased, low variance
    k3 = exp(ref - lp) - 1 - (ref - lp)   unbiased, low variance, never negative
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def kl_estimate(logprobs: Floats, reference: Floats, estimator: str) -> Floats:
    """Return the chosen estimate per token, in nats, in the shape of `logprobs`."""
    difference = logprobs - reference
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference**2 / 2
    if estimator == "k3":
        return np.expm1(-difference) + difference
    raise ValueError(f"unknown KL estimator {estimator!r}; use k1, k2 or k3")
