"""The training forward over sequences that begin with the same tokens: those run once, with gradients.

A chat template and a system prompt are the same in every prompt of a round; often they are half of it. The trunk
runs them as one row, and each layer's attention of the other tokens sees their keys and values, expanded to all
rows. In exact arithmetic this is the plain forward, and so is its gradient.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from .loading import sliding_window

LEAST_PREFIX = 8  # fewer tokens are not worth a forward of their own


class PrefixCache(Cache):
    """Keys and values of the common prefix by layer; kept in the first forward, put in front in the second."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}
        self.keeping = True

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        """Keep keys and values (1, heads, P, d), or return these before those given (B, heads, T, d)."""
        if self.keeping:
            self.kept[layer_idx] = (key_states, value_states)
            return key_states, value_states
        rows = len(key_states)
        keys, values = (kept.expand(rows, -1, -1, -1) for kept in self.kept[layer_idx])
        return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return 0: positions are always given to the model."""
        return 0


def hidden_after_prefix(trunk: Any, prefix: Tensor, ids: Tensor) -> Tensor:
    """Return the last hidden states (B, T, H) of `ids` (B, T), each row of which follows the `prefix` (P,)."""
    cache, before, width = PrefixCache(), len(prefix), ids.shape[1]
    trunk(input_ids=prefix[None], past_key_values=cache, use_cache=True)
    cache.keeping = False
    output = trunk(input_ids=ids, past_key_values=cache, use_cache=True, **behind_prefix(before, width, ids.device))
    hidden: Tensor = output.last_hidden_state
    return hidden


def behind_prefix(before: int, width: int, device: torch.device) -> dict[str, Tensor]:
    """Return position_ids and the causal attention_mask of `width` tokens that follow `before` tokens."""
    seen = torch.ones(width, before + width, dtype=torch.bool, device=device).tril(before)
    places = torch.arange(before, before + width, device=device)
    return {"position_ids": places[None], "attention_mask": seen[None, None]}


def common_prefix(prompts: list[list[int]]) -> int:
    """Return how many tokens all prompts share at their start, leaving each at least one of its own."""
    if not prompts:
        return 0
    first, last = min(prompts), max(prompts)  # the common start of these two is that of all
    shortest = max(min(map(len, prompts)) - 1, 0)
    return next((place for place in range(shortest) if first[place] != last[place]), shortest)


def can_share(model: Any) -> bool:
    """Tell whether the model's attention is plain causal: one mask then fits all layers."""
    return sliding_window(model) is None and not getattr(model.config, "attention_chunk_size", None)
