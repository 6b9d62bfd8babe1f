"""GRPO: each response against the mean of the prompt's, by their standard deviation."""

import numpy as np

from ..groups import group_centred, sums_by_group, sums_by_sequence
from .registry import Estimated, Floats, Integers, estimator


@estimator(
    "grpo",
    about="without a critic, the response's reward less the prompt's mean, divided by its standard deviation",
    samples=2,
    per_response=True,
)
def grpo(rewards: Floats, lengths: Integers, groups: Integers) -> Estimated:
    """Return `group_normalised` of each response's summed rewards, at each of its tokens; no returns to learn.

    rewards: per token, sequences concatenated (sum of lengths,). lengths, groups: (N,).
    """
    return Estimated(np.repeat(group_normalised(sums_by_sequence(rewards, lengths), groups), lengths), None)


def group_normalised(rewards: Floats, groups: Integers, eps: float = 1e-4) -> Floats:
    """Return A_i = (R_i - mean) / (std + eps), mean and standard deviation of the response's group.

    rewards: (N,) one number per response. groups: (N,) the prompt of each, as integers.
    Source: Shao et al. 2024, arXiv:2402.03300, sec. 4.1.2. As in TRL's GRPOTrainer the variance is the unbiased
    one and eps is 1e-4; a group whose rewards are all equal gives 0. Every group has 2 or more (ValueError).
    """
    centred = group_centred(rewards, groups)
    squares, counts = sums_by_group(centred**2, groups)
    if counts.min(initial=2) < 2:
        raise ValueError("a group's standard deviation needs two responses or more to each prompt")
    return centred / (np.sqrt(squares / (counts - 1)) + eps)
