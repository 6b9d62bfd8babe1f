"""What the update learns from, beside the tokens."""

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import PipelineError
from ..maths.masked import whiten
from ..maths.rollout_correction import correction_weights
from ..settings.learning_sections import Update
from .chosen import chosen, not_cut, right_answers, scaled_to_mean, share_of
from .data import split


class Batch(NamedTuple):
    """The columns of `LossInputs` for a microbatch, concatenated (tokens,), on the device."""

    old_logprobs: Tensor
    old_values: Tensor | None
    advantages: Tensor
    returns: Tensor | None
    reference_logprobs: Tensor | None
    weights: Tensor | None
    taught: Tensor | None
    right: Tensor | None


@dataclass(frozen=True)
class LossInputs:
    """One tensor per sample, one entry per response token.

    old_logprobs and old_values: of the training forward at the round's start. returns: what the value is to be;
    None where no value is learned. reference_logprobs: of the base, for the KL as a loss term. weights: factor of
    the policy loss, for samples whose sampler differed from the training forward. taught: 1 where a token teaches the
    policy, 0 in a response that does not; None where all do. right: 1 in right answers, for the likelihood as a term.
    """

    old_logprobs: list[Tensor]
    old_values: list[Tensor] | None
    advantages: list[Tensor]
    returns: list[Tensor] | None
    reference_logprobs: list[Tensor] | None = None
    weights: list[Tensor] | None = None
    taught: list[Tensor] | None = None
    right: list[Tensor] | None = None

    def take(self, indices: NDArray, device: torch.device) -> Batch:
        """Return the chosen samples' entries."""
        columns = (getattr(self, field.name) for field in fields(self))
        return Batch(*(None if c is None else torch.cat([c[i] for i in indices]).to(device) for c in columns))

    def whitened(self, indices: NDArray) -> "LossInputs":
        """Return targets whose advantages have mean 0 and variance 1 over the tokens of the samples `indices`.

        The other samples' stay as they are. The convention of CleanRL's and Stable-Baselines3's PPO, per minibatch.
        """
        parts = [self.advantages[i] for i in indices]
        flat = torch.from_numpy(whiten(torch.cat(parts).numpy().astype(np.float64)).astype(np.float32))
        advantages = list(self.advantages)
        for i, part in zip(indices, flat.split([len(part) for part in parts]), strict=True):
            advantages[i] = part
        return replace(self, advantages=advantages)

    def scaled(self, indices: NDArray, normalization: str) -> "LossInputs":
        """Return targets for the minibatch `indices`, whose loss is divided by all of its tokens or responses.

        So that the terms of some responses are means over these, taught and right are scaled. right: always (VAPO's
        eq. in sec. 4.3 with token_mean). taught: with token_mean; else all responses count in the divisor. So do TRL's
        losses dapo and bnpo, grpo, and dr_grpo, with mask_truncated_completions.
        """
        by_token, found = normalization == "token_mean", self
        if self.taught is not None and by_token:
            found = replace(found, taught=scaled_to_mean(self.taught, indices, by_token))
        return found if self.right is None else replace(found, right=scaled_to_mean(self.right, indices, by_token))


def sampling_weights(
    policy: list[Tensor], sampler: list[Tensor], kept: list[Tensor], s: Update
) -> tuple[list[Tensor], dict[str, float]]:
    """Return the weights of update.rollout_correction per token, and metrics: means over the round's tokens.

    policy, sampler: logprobs by the training forward and by the sampler. kept: mass that truncated sampling chose
    from, so that a token was drawn with q = exp(sampler) / kept. Raises PipelineError where no token keeps a weight.
    """
    form, low, high = s.rollout_correction, s.rollout_correction_min, s.rollout_correction_max
    assert form is not None and high is not None, "Update sees to it"
    found = [
        correction_weights(p.double() - q.double() + k.double().log(), form, low, high)
        for p, q, k in zip(policy, sampler, kept, strict=True)
    ]
    weights, outside = [w.float() for w, _ in found], torch.cat([o for _, o in found])
    flat = torch.cat(weights)
    if not flat.any():
        raise PipelineError(
            f"params.yaml: update.rollout_correction: {form} gives each of the round's {len(flat)} tokens weight 0, "
            "and the policy would learn nothing. Widen rollout_correction_min and rollout_correction_max, or set "
            "token_truncate. Under rollout.top_k, top_p and min_p a token's ratio is below 1 most of the time, and the "
            "product over a response far below."
        )
    mean, cut = flat.double().mean().item(), outside.double().mean().item()
    return weights, {"policy/correction_mean": mean, "policy/correction_cut": cut}


def loss_inputs_of(
    rollouts: pa.Table, reference: pa.Table, advantages: pa.Table, s: Update
) -> tuple[LossInputs, dict[str, float]]:
    """Return what the update learns from of a round's tables, and metrics of what is weighted or left out.

    Columns that these settings do not use are None.
    """
    learns_values = not advantages.column("returns").null_count and not reference.column("values").null_count
    policy = split(reference, "policy_logprobs")
    weights, metrics = None, dict[str, float]()
    if s.rollout_correction is not None:
        sampler, kept = split(rollouts, "rollout_logprobs"), split(rollouts, "kept_mass")
        weights, metrics = sampling_weights(policy, sampler, kept, s)
    taught = right = None
    if s.mask_truncated:
        taught = chosen(not_cut(rollouts), policy)
        metrics["policy/truncated_masked"] = 1 - share_of(taught)
    if s.likelihood_coef:
        right = chosen(right_answers(advantages), policy)
        if taught is not None:
            right = [r * t for r, t in zip(right, taught, strict=True)]
        metrics["policy/right_tokens"] = share_of(right)
    inputs = LossInputs(
        policy,
        split(reference, "values") if learns_values else None,
        split(advantages, "advantages"),
        split(advantages, "returns") if learns_values else None,
        split(reference, "reference_logprobs") if s.kl_loss_coef else None,
        weights,
        taught,
        right,
    )
    return inputs, metrics
