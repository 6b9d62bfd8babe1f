"""The decoder's key-value cache: one row per slot, written in place, never concatenated."""

import inspect
import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache

from ..compute.device import determinism
from ..compute.native.operations import attend_step


class SlotCache(Cache):
    """Keys and values of `slots` sequences of up to `capacity` tokens, each sequence from position 0.

    Sequences of different lengths lie in it without left padding: row i is valid below its own length, and the
    attention mask hides what lies beyond. A forward first says with `prefill` or `step` where it writes.
    counts: the model asks the cache how many tokens lie before those that it runs; else it is given their positions.
    by_token: in memory a slot's numbers lie by token, then head, as the flash kernels take them; else by head, then
    token.
    """

    def __init__(self, slots: int, capacity: int, counts: bool = False, by_token: bool = False) -> None:
        super().__init__(layers=[])
        self.slots, self.capacity, self.counts, self.by_token = slots, capacity, counts, by_token
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.prefix: list[tuple[Tensor, Tensor]] = []
        self.prefix_length = 0
        self._is_prefix = False
        self._rows: Tensor | None = None
        self._positions: Tensor | None = None
        self._places: Tensor | None = None
        self._width = 0

    def prefill_prefix(self, length: int) -> None:
        """The next forward runs what all prompts start with, once: (1, length) tokens from position 0."""
        self.prefix_length, self._is_prefix = length, True

    def prefill(self, rows: Tensor, places: Tensor | None = None) -> None:
        """The next forward runs prompts without the common prefix, and fills slots `rows` (n,), the prefix included.

        places: (n, t) where each prompt's tokens lie in the prefix and one row behind it that is run for all.
        """
        self._rows, self._positions, self._is_prefix, self._places = rows, None, False, places

    def step(self, positions: Tensor, width: int) -> None:
        """The next forward runs one token for each of the first n slots, at `positions` (n,), all below `width`."""
        self._is_prefix = False
        self._rows = torch.arange(len(positions), device=positions.device)
        self._positions = positions
        self._width = width

    @property
    def stepping(self) -> bool:
        """Tell whether the next forward is that of one token for each slot."""
        return self._positions is not None and not self._is_prefix

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, cosine: Tensor, sine: Tensor, scale: float) -> Tensor:
        """Store a step's keys and values (n, 1, kv_heads, d) and return its attention (n, 1, heads, d)."""
        assert self._positions is not None
        keys, values = self.keys[layer], self.values[layer]
        out = attend_step(q[:, 0], k[:, 0], v[:, 0], cosine, sine, self._positions, keys, values, scale)
        return out[:, None]

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        """Store keys and values (n, heads, t, d) of a layer; return those that its attention reads."""
        if self._is_prefix:
            self.prefix.append((key_states, value_states))
            return key_states, value_states
        if layer_idx == len(self.keys):
            self._add_layer(key_states, value_states)
        on_gpu = key_states.device.type == "cuda"
        with determinism("default") if on_gpu else nullcontext():  # no place is written twice
            return self._written(key_states, value_states, layer_idx)

    def _written(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        keys, values, rows = self.keys[layer_idx], self.values[layer_idx], self._rows
        assert rows is not None
        if self._positions is None and self._places is not None:
            if self.prefix:
                key_states, value_states = (
                    torch.cat(pair, 2) for pair in zip(self.prefix[layer_idx], (key_states, value_states), strict=True)
                )
            for stored, laid in ((keys, key_states[0]), (values, value_states[0])):
                stored[rows, :, : self._places.shape[1]] = laid[:, self._places].transpose(0, 1)
            return key_states, value_states
        if self._positions is None:
            if self.prefix:
                count, before = len(rows), self.prefix[layer_idx]
                key_states = torch.cat([before[0].expand(count, -1, -1, -1), key_states], dim=2)
                value_states = torch.cat([before[1].expand(count, -1, -1, -1), value_states], dim=2)
            width = key_states.shape[2]
            keys[rows, :, :width] = key_states
            values[rows, :, :width] = value_states
            return key_states, value_states
        keys[rows, :, self._positions] = key_states[:, :, 0]
        values[rows, :, self._positions] = value_states[:, :, 0]
        return keys[: len(rows), :, : self._width], values[: len(rows), :, : self._width]

    def copy_slot(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one slot to another."""
        for tensors in (self.keys, self.values):
            for tensor in tensors:
                tensor[target, :, :length] = tensor[source, :, :length]

    def _add_layer(self, key_states: Tensor, value_states: Tensor) -> None:
        for tensors, like in ((self.keys, key_states), (self.values, value_states)):
            heads, size = like.shape[1], like.shape[-1]
            if self.by_token:
                tensors.append(_zeros((self.slots, self.capacity, heads, size), like).transpose(1, 2))
            else:
                tensors.append(_zeros((self.slots, heads, self.capacity, size), like))

    def restore(self, keys: Tensor, values: Tensor) -> None:
        """Add a layer with the keys and values (n, heads, t, d) that the first n slots held."""
        self._add_layer(keys, values)
        count, _, width, _ = keys.shape
        self.keys[-1][:count, :, :width] = keys
        self.values[-1][:count, :, :width] = values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many tokens lie before those that run, in a step before the longest sequence's; 0 if not asked."""
        if not self.counts or self._is_prefix:
            return 0
        return self.prefix_length if self._positions is None else self._width - 1

    def get_mask_sizes(self, *queries_and_layer: Any, **named: Any) -> tuple[int, int]:
        """Return the number of keys that a mask covers, and the place of the first; arguments differ by version."""
        queries, first = super().get_mask_sizes(*queries_and_layer, **named)  # of a cache without layers
        return self.get_seq_length() + queries, first


def cache_name(backbone: Any) -> str:
    """Return what a model's forward calls its cache: `past_key_values`, since transformers 5.24 `cache`."""
    return "cache" if "cache" in inspect.signature(backbone.forward).parameters else "past_key_values"


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return zeros; on a CPU from calloc, which gets pages that are zero already and need not be written for it."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    room = np.zeros(math.prod(shape) * like.element_size(), np.uint8)
    return torch.from_numpy(room).view(like.dtype).view(shape)
