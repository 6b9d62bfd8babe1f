"""A round's tables as tensors, one entry per sample."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..models.policy import Sequences, pack, pad
from ..models.prefix import LEAST_PREFIX, common_prefix
from ..tables.schema import flat, lengths
from .batches import by_token_budget


@dataclass(frozen=True)
class Sampled:
    """Prompts and responses as token ids (int32).

    packed: batches are one row without padding, of which the first `prefix` tokens are common to all
    prompts; else they are padded, one row for each sample.
    """

    sample_ids: list[str]
    prompts: list[Tensor]
    responses: list[Tensor]
    packed: bool = False
    prefix: int = 0

    @property
    def total_lengths(self) -> NDArray[np.int64]:
        """Tokens of each prompt without the prefix, with its response (N,)."""
        return np.array([len(p) - self.prefix + len(r) for p, r in zip(self.prompts, self.responses, strict=True)])

    def sequences(self, indices: NDArray[np.int64], pad_id: int, device: torch.device) -> Sequences:
        """Return the chosen samples as one batch."""
        prompts, responses = ([column[i] for i in indices] for column in (self.prompts, self.responses))
        if self.packed:
            return pack(prompts, responses, pad_id, device, self.prefix)
        return pad(prompts, responses, pad_id, device)

    def batches(self, indices: NDArray[np.int64], budget: int) -> list[NDArray[np.int64]]:
        """Return `indices` in batches of similar length of at most `budget` tokens, padding included."""
        parts = by_token_budget(self.total_lengths[indices], budget, self.prefix, padded=not self.packed)
        return [indices[part] for part in parts]


@dataclass
class Padding:
    """Counts what batches hold: `tokens` of samples (a common prefix once), and the `places` that were run for them."""

    tokens: int = 0
    places: int = 0

    def add(self, batch: Sequences) -> None:
        """Count one batch."""
        prefix = batch.layout.prefix if batch.layout else 0
        self.tokens += prefix + int(batch.prompt_lengths.sum() + batch.response_lengths.sum())
        self.places += batch.ids.numel()

    @property
    def share(self) -> float:
        """Return the share of the places that held padding."""
        return round(1 - self.tokens / self.places, 4) if self.places else 0.0


def sampled(rollouts: pa.Table, packed: bool = False, share_prefix: bool = False) -> Sampled:
    """Return the token ids of a rollouts table; with `share_prefix` the prompts' common start runs once a batch."""
    share = packed and share_prefix
    common = common_prefix(rollouts.column("prompt_ids").to_pylist()) if share else 0
    return Sampled(
        rollouts.column("sample_id").to_pylist(),
        split(rollouts, "prompt_ids"),
        split(rollouts, "response_ids"),
        packed,
        common if common >= LEAST_PREFIX else 0,
    )


def split(table: pa.Table, name: str) -> list[Tensor]:
    """Return a list column as one tensor per row."""
    values = torch.from_numpy(np.array(flat(table, name)))
    return list(values.split(lengths(table, name).tolist()))
