"""A round's tables as tensors, one entry per sample."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..models.policy import Sequences, pad
from ..models.prefix import LEAST_PREFIX, common_prefix
from ..tables.contract import flat, lengths


@dataclass(frozen=True)
class Sampled:
    """Prompts and responses as token ids (int32).

    prefix: how many tokens at the start of all prompts run once for a batch; 0 for none.
    """

    sample_ids: list[str]
    prompts: list[Tensor]
    responses: list[Tensor]
    prefix: int = 0

    @property
    def total_lengths(self) -> NDArray[np.int64]:
        """Tokens of each prompt without the prefix, with its response (N,)."""
        return np.array([len(p) - self.prefix + len(r) for p, r in zip(self.prompts, self.responses, strict=True)])

    def sequences(self, indices: NDArray[np.int64], pad_id: int, device: torch.device) -> Sequences:
        """Return the chosen samples as one padded batch."""
        prompts, responses = ([column[i] for i in indices] for column in (self.prompts, self.responses))
        return pad(prompts, responses, pad_id, device, self.prefix)


def sampled(rollouts: pa.Table, share_prefix: bool = False) -> Sampled:
    """Return the token ids of a rollouts table; with `share_prefix` the prompts' common start runs once a batch."""
    common = common_prefix(rollouts.column("prompt_ids").to_pylist()) if share_prefix else 0
    return Sampled(
        rollouts.column("sample_id").to_pylist(),
        split(rollouts, "prompt_ids"),
        split(rollouts, "response_ids"),
        common if common >= LEAST_PREFIX else 0,
    )


def split(table: pa.Table, name: str) -> list[Tensor]:
    """Return a list column as one tensor per row."""
    values = torch.from_numpy(np.array(flat(table, name)))
    return list(values.split(lengths(table, name).tolist()))
