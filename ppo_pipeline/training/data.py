"""A round's tables as tensors, one entry per sample."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..models.policy import Sequences, pad
from ..tables.contract import flat, lengths


@dataclass(frozen=True)
class Sampled:
    """Prompts and responses as token ids (int32), with their lengths."""

    sample_ids: list[str]
    prompts: list[Tensor]
    responses: list[Tensor]

    @property
    def total_lengths(self) -> NDArray[np.int64]:
        """Tokens of each prompt with its response (N,)."""
        return np.array([len(p) + len(r) for p, r in zip(self.prompts, self.responses, strict=True)])

    def sequences(self, indices: NDArray[np.int64], pad_id: int, device: torch.device) -> Sequences:
        """Return the chosen samples as one padded batch."""
        return pad([self.prompts[i] for i in indices], [self.responses[i] for i in indices], pad_id, device)


def sampled(rollouts: pa.Table) -> Sampled:
    """Return the token ids of a rollouts table."""
    return Sampled(
        rollouts.column("sample_id").to_pylist(),
        split(rollouts, "prompt_ids"),
        split(rollouts, "response_ids"),
    )


def split(table: pa.Table, name: str) -> list[Tensor]:
    """Return a list column as one tensor per row."""
    values = torch.from_numpy(np.array(flat(table, name)))
    return list(values.split(lengths(table, name).tolist()))
