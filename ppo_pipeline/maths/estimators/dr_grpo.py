"""Dr. GRPO: each response against the mean of the prompt's, not divided by their standard deviation."""

import numpy as np

from ..groups import group_centred, sums_by_sequence
from .registry import Estimated, Floats, Integers, estimator


@estimator(
    "dr_grpo",
    about="without a critic, the response's reward less the prompt's mean, divided by nothing",
    samples=2,
    per_response=True,
    whiten="none",
)
def dr_grpo(rewards: Floats, lengths: Integers, groups: Integers) -> Estimated:
    """Return `group_centred` of each response's summed rewards, at each of its tokens; no returns to learn.

    rewards: per token, sequences concatenated (sum of lengths,). lengths, groups: (N,). The other half of Dr. GRPO,
    no bias by length, is update.loss_normalization: fixed_length. Source: Liu et al. 2025, arXiv:2503.20783, sec. 3.2.
    It is RLOO's advantage times (G - 1) / G for G responses.
    """
    return Estimated(np.repeat(group_centred(sums_by_sequence(rewards, lengths), groups), lengths), None)
