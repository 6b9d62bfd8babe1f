"""What all prompts of a round begin with: a chat template and a system prompt, often half of a prompt."""

import torch

LEAST_PREFIX = 8  # fewer tokens are not worth a forward of their own


def causal_mask(queries: int, keys: int, device: torch.device) -> torch.Tensor:
    """Return (queries, keys), true where a query may look: the last query at all keys, each before it at one fewer."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def common_prefix(prompts: list[list[int]]) -> int:
    """Return how many tokens all prompts share at their start, leaving each at least one of its own."""
    if not prompts:
        return 0
    first, last = min(prompts), max(prompts)  # the common start of these two is that of all
    shortest = max(min(map(len, prompts)) - 1, 0)
    return next((place for place in range(shortest) if first[place] != last[place]), shortest)
