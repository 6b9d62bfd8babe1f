"""Responses that a term of the loss is of, where not all are: a column of 1 for each token of theirs, 0 for others'."""

import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import PipelineError


def chosen(flags: list[bool], tokens: list[Tensor]) -> list[Tensor]:
    """Return the column, with 1 in the samples whose flag is set; tokens: any other column."""
    return [torch.full((len(part),), float(flag)) for flag, part in zip(flags, tokens, strict=True)]


def not_cut(rollouts: pa.Table) -> list[bool]:
    """Return whether each response ended by itself; PipelineError where all were cut by length."""
    found = [reason != "length" for reason in rollouts.column("finish_reason").to_pylist()]
    if not any(found):
        raise PipelineError(
            f"params.yaml: update.mask_truncated: each of the round's {len(found)} responses was cut by length, and "
            "the policy would learn nothing. Raise rollout.max_new_tokens, or set mask_truncated to false."
        )
    return found


def right_answers(advantages: pa.Table) -> list[bool]:
    """Return whether each response is a right answer; PipelineError where the table does not say."""
    found: list[bool] = advantages.column("correct").to_pylist()
    if None in found:
        raise PipelineError(
            "advantages.parquet: column 'correct' is empty, and update.likelihood_coef needs it; set reward.correct, "
            "and rerun the stages reward and advantage."
        )
    return found


def share_of(column: list[Tensor]) -> float:
    """Return the share of the round's tokens that are 1."""
    return torch.cat(column).double().mean().item()


def scaled_to_mean(column: list[Tensor], indices: NDArray, by_token: bool) -> list[Tensor]:
    """Return the column such that a sum over the samples `indices`, divided by all of these, is the chosen ones' mean.

    That is times all / chosen, as counts of tokens or of responses; 0 where none is chosen. Other samples' stay.
    """
    parts = [column[i] for i in indices]
    ones = sum(part.sum().item() if by_token else float(part.any()) for part in parts)
    factor = sum(len(part) if by_token else 1 for part in parts) / ones if ones else 0.0
    found = list(column)
    for i, part in zip(indices, parts, strict=True):
        found[i] = part * factor
    return found
