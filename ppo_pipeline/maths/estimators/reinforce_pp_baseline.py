"""REINFORCE++ with a baseline (Hu et al. 2025, arXiv:2501.03262, version 3 on): the reward less the prompt's mean."""

import numpy as np

from ..groups import group_centred, sums_by_sequence
from .registry import Estimated, Floats, Integers, estimator


@estimator(
    "reinforce++_baseline",
    about="the response's reward less the prompt's mean, whitened over the round",
    samples=2,
    per_response=True,
    whiten="round",
)
def reinforce_pp_baseline(rewards: Floats, lengths: Integers, groups: Integers) -> Estimated:
    """Return R_i - mean of the group's R_j at each token of response i, to be whitened; no returns to learn.

    rewards: per token, sequences concatenated (sum of lengths,). lengths, groups: (N,).
    As verl's reinforce_plus_plus_baseline, a KL penalty in the rewards counts in R. OpenRLHF's reinforce_baseline
    centres the scores alone and gives a token the KL penalties after it; without a penalty they are the same.
    """
    return Estimated(np.repeat(group_centred(sums_by_sequence(rewards, lengths), groups), lengths), None)
