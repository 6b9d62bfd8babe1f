"""Numbers of answers to held-out prompts: their standard error, pass@k, and the vote of many answers."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]


def standard_error(values: Floats) -> float | None:
    """Return the standard error of the mean, sqrt(sum (x - mean)^2 / (N - 1)) / sqrt(N); None for fewer than two.

    values: one number per prompt (N,), since prompts are what is drawn. Where a prompt has several answers it is their
    mean: answers to one prompt are alike, and taken as independent would make the error too small. For equally many
    answers this is the clustered standard error of Miller 2024 (arXiv:2411.00640), with N - 1 for N. Of differences
    between two policies on the same prompts it is the paired one, as there.
    """
    if len(values) < 2:
        return None
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def pass_at_k(right: Integers, drawn: int, k: int) -> Floats:
    """Return 1 - C(n - c, k) / C(n, k) of each prompt: an unbiased estimate of whether one of k answers is right.

    Chen et al. 2021 (arXiv:2107.03374), equation 1, by the product that they compute it with,
    1 - prod over i from n - c + 1 to n of (1 - k / i). right: c, the right ones of `drawn` = n answers (N,); k <= n.
    """
    if not 1 <= k <= drawn:
        raise ValueError(f"pass@{k} of {drawn} answers")
    factors = 1.0 - k / np.arange(1, drawn + 1)
    misses = [0.0 if drawn - c < k else np.prod(factors[drawn - c :]) for c in right]
    return 1.0 - np.array(misses, np.float64)


def powers_up_to(count: int) -> list[int]:
    """Return 1, 2, 4, ... below `count`, and `count` itself."""
    return [1 << power for power in range(count.bit_length()) if 1 << power < count] + [count]


def majority(votes: Sequence[str]) -> int:
    """Return the place of the first vote for the most frequent one; of equally frequent ones, the first drawn.

    Self-consistency: Wang et al. 2022 (arXiv:2203.11171), without weights.
    """
    return votes.index(Counter(votes).most_common(1)[0][0])  # which has equal counts in the order of their first
