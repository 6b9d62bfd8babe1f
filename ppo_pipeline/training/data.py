"""A round's tables as tensors, one entry per sample."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..models.packed import can_branch, can_pack
from ..models.policy import Sequences, pack, pack_tree, pad
from ..models.prefix import LEAST_PREFIX, by_shared_tokens, common_prefix
from ..settings.sections import SharePrefix
from ..tables.schema import flat, lengths
from .batches import by_token_budget


@dataclass(frozen=True)
class Sampled:
    """Prompts and responses as token ids (int32).

    packed: batches are one row without padding, of which the first `prefix` tokens are common to all prompts, or with
    `tree` all that any prompts of the batch share at their start; else they are padded, one row for each sample.
    """

    sample_ids: list[str]
    prompts: list[Tensor]
    responses: list[Tensor]
    packed: bool = False
    prefix: int = 0
    tree: bool = False

    @property
    def total_lengths(self) -> NDArray[np.int64]:
        """Tokens of each prompt without the prefix, with its response (N,)."""
        return np.array([len(p) - self.prefix + len(r) for p, r in zip(self.prompts, self.responses, strict=True)])

    def sequences(self, indices: NDArray[np.int64], pad_id: int, device: torch.device) -> Sequences:
        """Return the chosen samples as one batch."""
        prompts, responses = ([column[i] for i in indices] for column in (self.prompts, self.responses))
        if self.tree:
            return pack_tree(prompts, responses, pad_id, device)
        if self.packed:
            return pack(prompts, responses, pad_id, device, self.prefix)
        return pad(prompts, responses, pad_id, device)

    def batches(self, indices: NDArray[np.int64], budget: int) -> list[NDArray[np.int64]]:
        """Return `indices` in batches of at most `budget` tokens, padding included: of similar length, or of prompts
        that share most."""
        if self.tree:
            prompts = [self.prompts[i].tolist() for i in indices]
            return [indices[part] for part in by_shared_tokens(prompts, self.total_lengths[indices], budget)]
        parts = by_token_budget(self.total_lengths[indices], budget, self.prefix, padded=not self.packed)
        return [indices[part] for part in parts]


@dataclass
class Padding:
    """Counts what batches hold: `tokens` of samples (shared ones once), and the `places` that were run for them."""

    tokens: int = 0
    places: int = 0

    def add(self, batch: Sequences) -> None:
        """Count one batch."""
        own = int(batch.prompt_lengths.sum() + batch.response_lengths.sum())
        self.tokens += batch.layout.tokens if batch.layout else own
        self.places += batch.ids.numel()

    @property
    def share(self) -> float:
        """Return the share of the places that held padding."""
        return round(1 - self.tokens / self.places, 4) if self.places else 0.0


def sampled(rollouts: pa.Table, model: Any = None, share_prefix: SharePrefix = False) -> Sampled:
    """Return the token ids of a rollouts table as the model takes them (`sharing`); without one padded."""
    names = rollouts.column("sample_id").to_pylist()
    return sharing(names, split(rollouts, "prompt_ids"), split(rollouts, "response_ids"), model, share_prefix)


def sharing(
    names: list[str], prompts: list[Tensor], responses: list[Tensor], model: Any, share_prefix: SharePrefix
) -> Sampled:
    """Return samples as the model takes them.

    share_prefix: what prompts start with in common runs once a batch: what all of them do, or with "tree" what any of
    the batch do, where the model can.
    """
    packed = model is not None and can_pack(model)
    tree = packed and share_prefix == "tree" and can_branch(model)
    common = common_prefix([ids.tolist() for ids in prompts]) if packed and share_prefix and not tree else 0
    return Sampled(names, prompts, responses, packed, common if common >= LEAST_PREFIX else 0, tree)


def split(table: pa.Table, name: str) -> list[Tensor]:
    """Return a list column as one tensor per row."""
    values = torch.from_numpy(np.array(flat(table, name)))
    return list(values.split(lengths(table, name).tolist()))
