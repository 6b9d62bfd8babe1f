"""What prompts begin with in common: a chat template, a system prompt, an example; in a group the whole prompt."""

import itertools
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

LEAST_PREFIX = 8  # fewer tokens are not worth a forward of their own


def causal_mask(queries: int, keys: int, device: torch.device) -> torch.Tensor:
    """Return (queries, keys), true where a query may look: the last query at all keys, each before it at one fewer."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def common_prefix(prompts: list[list[int]]) -> int:
    """Return how many tokens all prompts share at their start, leaving each at least one of its own."""
    return shared(min(prompts), max(prompts)) if prompts else 0  # the common start of these two is that of all


def shared(first: list[int], second: list[int]) -> int:
    """Return how many tokens two prompts share at their start, leaving each at least one of its own."""
    most = max(min(len(first), len(second)) - 1, 0)
    return next((place for place in range(most) if first[place] != second[place]), most)


def by_shared_tokens(prompts: list[list[int]], lengths: NDArray[np.integer], budget: int) -> list[NDArray[np.int64]]:
    """Return indices in batches of at most `budget` tokens, neighbours in order: what prompts share at their start is
    there once.

    lengths: (N,) tokens of each prompt with its response. One longer than the budget is a batch of its own.
    """
    batches: list[list[int]] = []
    used, last = 0, -1
    for i in sorted(range(len(prompts)), key=lambda i: (prompts[i], i)):
        more = int(lengths[i]) - (shared(prompts[last], prompts[i]) if batches else 0)
        if batches and used + more <= budget:
            batches[-1].append(i)
            used += more
        else:
            batches.append([i])
            used = int(lengths[i])
        last = i
    return [np.array(batch) for batch in batches]


class Branch(NamedTuple):
    """Tokens begin to end of a prompt, behind those of the branch `parent` (-1: none); leaf: whether they end it."""

    parent: int
    begin: int
    end: int
    prompt: int
    leaf: bool


def prefix_tree(prompts: list[list[int]]) -> list[Branch]:
    """Return the prompts as a tree in which what two of them share at their start is there once.

    Each branch comes behind its parent, and all that is behind it in the tree comes next. Each prompt has a leaf, with
    at least one token of its own: the state that predicts the response is not shared.
    """
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    same = [shared(prompts[one], prompts[two]) for one, two in itertools.pairwise(order)]
    tree: list[Branch] = []
    todo = [(0, len(order), 0, -1)]  # a range of `order`, the tokens of it that the tree has, where it has them
    while todo:
        low, high, begin, parent = todo.pop()
        if high - low == 1:
            tree.append(Branch(parent, begin, len(prompts[order[low]]), order[low], True))
            continue
        common = min(same[low : high - 1])
        if common > begin:
            tree.append(Branch(parent, begin, common, order[low], False))
            begin, parent = common, len(tree) - 1
        cuts = [low, *(place + 1 for place in range(low, high - 1) if same[place] == common), high]
        todo += [(start, end, begin, parent) for start, end in itertools.pairwise(cuts)][::-1]
    return tree
