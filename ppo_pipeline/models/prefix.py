"""The training forward over sequences that begin with the same tokens: those run once, with gradients.

A chat template and a system prompt are the same in every prompt of a round; often they are half of it. The trunk
runs them as one row, and each layer's attention of the other tokens sees their keys and values, expanded to all
rows. In exact arithmetic this is the plain forward, and so is its gradient.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache


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
    places = torch.arange(before, before + width, device=ids.device)[None]
    seen = torch.ones(width, before + width, dtype=torch.bool, device=ids.device).tril(before)
    output = trunk(
        input_ids=ids, past_key_values=cache, position_ids=places, attention_mask=seen[None, None], use_cache=True
    )
    hidden: Tensor = output.last_hidden_state
    return hidden


def common_prefix(prompts: list[Tensor]) -> int:
    """Return how many tokens all prompts share at their start, leaving each at least one of its own."""
    shortest = min((len(prompt) for prompt in prompts), default=1) - 1
    for place in range(shortest):
        if len({int(prompt[place]) for prompt in prompts}) > 1:
            return place
    return max(shortest, 0)


def can_share(model: Any) -> bool:
    """Tell whether the model's attention is plain causal: one mask then fits all layers."""
    config = model.config
    windowed = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    return not windowed and not getattr(config, "attention_chunk_size", None)
