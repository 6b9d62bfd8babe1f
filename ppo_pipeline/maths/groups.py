"""Advantages without values, from several responses to one prompt.

rewards: (N,) one number per response. groups: (N,) the prompt of each, as integers.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]


def leave_one_out(rewards: Floats, groups: Integers) -> Floats:
    """Return A_i = R_i - mean of the R_j of the group's other responses (RLOO).

    Source: Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!"; Ahmadian et al. 2024,
    arXiv:2402.14740, eq. 9. Every group has 2 responses or more (ValueError).
    """
    sums, counts = _sums(rewards, groups)
    if counts.min(initial=2) < 2:
        raise ValueError("leave-one-out needs two responses or more to each prompt")
    return rewards - (sums - rewards) / (counts - 1)


def group_normalised(rewards: Floats, groups: Integers, eps: float = 1e-4) -> Floats:
    """Return A_i = (R_i - mean) / (std + eps), mean and standard deviation of the response's group (GRPO).

    Source: Shao et al. 2024, arXiv:2402.03300, sec. 4.1.2. As in TRL's GRPOTrainer the variance is the unbiased
    one and eps is 1e-4; a group whose rewards are all equal gives 0. Every group has 2 or more (ValueError).
    """
    sums, counts = _sums(rewards, groups)
    if counts.min(initial=2) < 2:
        raise ValueError("a group's standard deviation needs two responses or more to each prompt")
    centred = rewards - sums / counts
    squares, _ = _sums(centred**2, groups)
    return centred / (np.sqrt(squares / (counts - 1)) + eps)


def _sums(values: Floats, groups: Integers) -> tuple[Floats, Floats]:
    """Return the sum and the size of each entry's group, in the entries' order."""
    _, index = np.unique(groups, return_inverse=True)
    return np.bincount(index, values).astype(np.float64)[index], np.bincount(index).astype(np.float64)[index]
