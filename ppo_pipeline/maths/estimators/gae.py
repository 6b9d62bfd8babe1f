"""Generalized advantage estimation (Schulman et al. 2016, arXiv:1506.02438, eq. 11 to 16)."""

import numpy as np

from .registry import Floats, Integers, estimator


@estimator("gae", about="by a critic's values")
def gae(
    rewards: Floats,
    values: Floats,
    last_values: Floats,
    lengths: Integers,
    gamma: float,
    lam: float,
    lam_returns: float | None = None,
    lam_alpha: float | None = None,
) -> tuple[Floats, Floats]:
    """Return advantages and returns of ragged sequences.

        delta_t = r_t + gamma V_{t+1} - V_t
        A_t     = delta_t + gamma lambda A_{t+1}
        R_t     = A_t + V_t

    rewards, values: one entry per response token, sequences concatenated (sum of lengths,); V_t is the value
        of the state before token t.
    last_values: (N,) V after each sequence's last token: 0 after a real end, the bootstrap value after a cut.
    lengths: (N,) tokens of each sequence, 1 or more.
    lam_returns: another lambda for the A_t within R_t, None for lam: decoupled GAE (VC-PPO: Yuan et al. 2025,
        arXiv:2503.01491), where 1 learns values without bias.
    lam_alpha: alpha of a lambda by the sequence's length l for the advantages, in place of lam: 1 - 1 / (alpha l),
        0 where that is negative (VAPO: Yue et al. 2025, arXiv:2504.05118, sec. 4.2). Returns keep theirs.
    Computed in float64, all sequences at a time, from their ends backwards.
    """
    values = values.astype(np.float64)
    next_values = np.empty_like(values)
    next_values[:-1] = values[1:]
    next_values[np.cumsum(lengths) - 1] = last_values
    deltas = rewards.astype(np.float64) + gamma * next_values - values
    of_returns = np.full(len(lengths), lam if lam_returns is None else lam_returns)
    of_advantages = np.full(len(lengths), lam) if lam_alpha is None else np.maximum(0, 1 - 1 / (lam_alpha * lengths))
    advantages = discounted(deltas, lengths, gamma * of_advantages)
    if np.array_equal(of_advantages, of_returns):
        return advantages, advantages + values
    return advantages, discounted(deltas, lengths, gamma * of_returns) + values


def discounted(deltas: Floats, lengths: Integers, decay: Floats) -> Floats:
    """Return A_t = delta_t + d A_{t+1}, d the sequence's own `decay` (N,); deltas as `rewards` above."""
    sums = deltas.copy()
    # Step k handles the token k places before its sequence's end, in every sequence that is long enough.
    by_length = np.argsort(-lengths, kind="stable")
    ends, sorted_lengths, decay = (np.cumsum(lengths) - 1)[by_length], lengths[by_length], decay[by_length]
    for k in range(1, int(lengths.max(initial=1))):
        alive = np.searchsorted(-sorted_lengths, -k, side="left")
        here = ends[:alive] - k
        sums[here] += decay[:alive] * sums[here + 1]
    return sums
