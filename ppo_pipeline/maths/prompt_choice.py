"""Which prompts are worth sampling: those that are neither always right nor always wrong."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def informative_weights(right: Floats, judged: Floats, eps: float = 0.05) -> Floats:
    """Return sqrt(p (1 - p)) + eps, p = (right + 1/2) / (judged + 1), for each prompt (N,).

    right, judged: what right answers and all answers to the prompt count. p is the mean of a Beta distribution with
    Jeffreys' prior: 1/2 for a prompt of which nothing is known, and never 0 or 1 after a few samples. sqrt(p (1 - p))
    is the standard deviation of a 0/1 reward: of what a policy gradient has to learn from.
    Source: SPO's prioritised sampling (Xu and Ding 2025, arXiv:2509.13232), eps and prior as in verl's recipe/spo.
    """
    p = (right + 0.5) / (judged + 1)
    weights: Floats = np.sqrt(p * (1 - p)) + eps
    return weights


def drawn_by_weight(weights: Floats, uniforms: Floats, wanted: int) -> NDArray[np.int64]:
    """Return `wanted` different indices, drawn one after the other with probabilities in proportion to the weights.

    uniforms: (N,) from [0, 1). Index i waits for -log(1 - u_i) / w_i, and the first ones to come are taken: the first
    of exponential waiting times is i with probability w_i / sum of w, and the rest starts anew. Source: Efraimidis and
    Spirakis 2006, "Weighted random sampling with a reservoir" (their keys u^(1/w), as logarithms).
    """
    return np.argsort(-np.log1p(-uniforms) / weights, kind="stable")[:wanted]
