"""Coefficients that change from round to round: learning rates and the adaptive KL coefficient."""

import math


def learning_rate_factor(depth: int, schedule: str, warmup: int, total: int | None) -> float:
    """Return the factor of the learning rates in the round that is `depth` rounds from the start, 1 for the first.

    Warm-up: depth / (warmup + 1) in the first `warmup` rounds. Then, with p = (depth - warmup - 1) / (total - warmup):
        constant 1,   linear 1 - p,   cosine (1 + cos(pi p)) / 2
    so that the last round of the schedule is still above 0; rounds beyond it keep its factor.
    """
    if depth <= warmup:
        return depth / (warmup + 1)
    if schedule == "constant":
        return 1.0
    assert total is not None  # the settings say so
    progress = (min(depth, total) - warmup - 1) / (total - warmup)
    if schedule == "linear":
        return 1 - progress
    if schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    raise ValueError(f"unknown schedule {schedule!r}; use constant, linear or cosine")


def adapted_kl_coef(coef: float, kl: float, target: float, horizon: int, samples: int) -> float:
    """Return coef (1 + e samples / horizon), e = clip(kl / target - 1, -0.2, 0.2).

    kl: mean over the round's responses of their summed KL, in nats. samples: responses in the round.
    Source: Ziegler et al. 2019, arXiv:1909.08593, sec. 2.2, with the batch in place of one step, as TRL's
    AdaptiveKLController has it.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coef * (1 + error * samples / horizon)
