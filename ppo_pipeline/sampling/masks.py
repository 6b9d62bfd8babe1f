"""Attention masks of the decoder, in the form that a model's attention takes."""

from typing import Any

import torch
from torch import Tensor

from ..models.loading import backbone_of, text_config


class Masks:
    """The form of a model's masks.

    by_key: attention adds a bias by distance (ALiBi) that the model makes of which keys are there (n, keys); it then
    counts the queries' places from the cache. additive: eager attention adds its mask to the scores.
    """

    def __init__(self, model: Any) -> None:
        config = text_config(model)
        self.by_key = bool(getattr(config, "alibi", hasattr(backbone_of(model), "build_alibi_tensor")))
        self.additive = getattr(config, "_attn_implementation", None) == "eager"
        self.dtype = model.dtype

    def of(self, seen: Tensor, rows: int) -> Tensor:
        """Return what the model takes for `seen` (rows or 1, queries, keys), true where a query may look."""
        if self.by_key:
            return seen[:, -1].long().expand(rows, -1)
        mask = seen[:, None]
        if not self.additive:
            return mask
        nothing = torch.zeros((), dtype=self.dtype, device=seen.device)
        return torch.where(mask, nothing, torch.finfo(self.dtype).min).expand(rows, -1, -1, -1)
