"""Minibatches and microbatches: which samples go through the model together."""

import hashlib

import numpy as np
from numpy.typing import NDArray


def generator(*key: object) -> np.random.Generator:
    """Return a random generator that depends on `key` alone (seed, round, purpose, ...)."""
    digest = hashlib.sha256("/".join(str(k) for k in key).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def shuffled_minibatches(count: int, minibatches: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Return `count` sample indices, shuffled and cut into `minibatches` parts whose sizes differ by 1 at most."""
    return [np.asarray(part) for part in np.array_split(rng.permutation(count), minibatches)]


def by_token_budget(
    lengths: NDArray[np.integer], budget: int, prefix: int = 0, padded: bool = True
) -> list[NDArray[np.int64]]:
    """Return indices in batches of similar length, each of at most `budget` tokens.

    Longest first; a sequence longer than the budget is a batch of its own. padded: every sequence of a batch counts
    as many tokens as its longest one. prefix: tokens that come once in a batch, besides.
    """
    order = np.argsort(-lengths, kind="stable")
    batches: list[NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        rest = lengths[order[start:]]
        costs = rest[0] * np.arange(1, len(rest) + 1) if padded else np.cumsum(rest)
        size = max(1, int(np.searchsorted(costs, budget - prefix, side="right")))
        batches.append(order[start : start + size])
        start += size
    return batches


def prompts_of_round(count: int, per_round: int, depth: int, seed: int) -> NDArray[np.int64]:
    """Return the indices of the training prompts of the round that is `depth` rounds from the start.

    Each pass over the `count` prompts is shuffled anew and cut into rounds; the rest of a pass that makes no
    whole round is left out, so that no round has a prompt twice.
    """
    rounds_in_pass = count // per_round
    which_pass, place = divmod(depth - 1, rounds_in_pass)
    order = generator(seed, "prompts", which_pass).permutation(count)
    return order[place * per_round : (place + 1) * per_round]
