"""RLOO: each response against the mean of the prompt's other ones."""

import numpy as np

from ..groups import sums_by_group, sums_by_sequence
from .registry import Estimated, Floats, Integers, estimator


@estimator(
    "rloo",
    about="without a critic, the response's reward less the mean of the prompt's other responses",
    samples=2,
    per_response=True,
)
def rloo(rewards: Floats, lengths: Integers, groups: Integers) -> Estimated:
    """Return `leave_one_out` of each response's summed rewards, at each of its tokens; there are no returns to learn.

    rewards: per token, sequences concatenated (sum of lengths,). lengths, groups: (N,).
    """
    return Estimated(np.repeat(leave_one_out(sums_by_sequence(rewards, lengths), groups), lengths), None)


def leave_one_out(rewards: Floats, groups: Integers) -> Floats:
    """Return A_i = R_i - mean of the R_j of the group's other responses.

    rewards: (N,) one number per response. groups: (N,) the prompt of each, as integers.
    Source: Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!"; Ahmadian et al. 2024,
    arXiv:2402.14740, eq. 9. Every group has 2 responses or more (ValueError).
    """
    sums, counts = sums_by_group(rewards, groups)
    if counts.min(initial=2) < 2:
        raise ValueError("leave-one-out needs two responses or more to each prompt")
    return rewards - (sums - rewards) / (counts - 1)
