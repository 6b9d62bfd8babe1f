"""REINFORCE++ (Hu 2025, arXiv:2501.03262): the discounted reward to go, whitened over the round."""

import numpy as np

from .gae import gae
from .registry import Estimated, Floats, Integers, estimator


@estimator("reinforce++", about="the reward to go, whitened over the round", whiten="round")
def reward_to_go(rewards: Floats, lengths: Integers, gamma: float) -> Estimated:
    """Return A_t = r_t + gamma A_{t+1}, which is GAE with all values 0 and lambda 1; there are no returns to learn.

    rewards: per token, sequences concatenated (sum of lengths,). lengths: (N,), 1 or more.
    """
    nothing = np.zeros_like(rewards)
    return Estimated(gae(rewards, nothing, np.zeros(len(lengths)), lengths, gamma, 1.0)[0], None)
