"""Generalized advantage estimation (Schulman et al. 2016, arXiv:1506.02438, eq. 11 to 16)."""

import numpy as np

from .registry import Floats, Integers, estimator


@estimator("gae", about="by a critic's values")
def gae(
    rewards: Floats, values: Floats, last_values: Floats, lengths: Integers, gamma: float, lam: float
) -> tuple[Floats, Floats]:
    """Return advantages and returns of ragged sequences.

        delta_t = r_t + gamma V_{t+1} - V_t
        A_t     = delta_t + gamma lambda A_{t+1}
        R_t     = A_t + V_t

    rewards, values: one entry per response token, sequences concatenated (sum of lengths,); V_t is the value
        of the state before token t.
    last_values: (N,) V after each sequence's last token: 0 after a real end, the bootstrap value after a cut.
    lengths: (N,) tokens of each sequence, 1 or more.
    Computed in float64, all sequences at a time, from their ends backwards.
    """
    rewards = rewards.astype(np.float64)
    values = values.astype(np.float64)
    ends = np.cumsum(lengths) - 1
    next_values = np.empty_like(values)
    next_values[:-1] = values[1:]
    next_values[ends] = last_values
    advantages = rewards + gamma * next_values - values
    # Step k handles the token k places before its sequence's end, in every sequence that is long enough.
    by_length = np.argsort(-lengths, kind="stable")
    sorted_ends, sorted_lengths = ends[by_length], lengths[by_length]
    for k in range(1, int(lengths.max(initial=1))):
        alive = np.searchsorted(-sorted_lengths, -k, side="left")
        here = sorted_ends[:alive] - k
        advantages[here] += gamma * lam * advantages[here + 1]
    return advantages, advantages + values
