"""The loss of a microbatch: its terms, each with its coefficient, and the statistics beside it."""

import math

import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import PipelineError
from ..maths.policy_losses import cispo_loss, sequence_log_ratios
from ..maths.ppo import kl_loss, policy_loss, policy_statistics, value_loss
from ..models.policy import Scores
from ..settings.learning_sections import Update
from .data import Sampled
from .loss_inputs import Batch


def summed_loss(scores: Scores, batch: Batch, response_lengths: Tensor, s: Update) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss summed over the microbatch's tokens, and its statistics, sums over them too.

    With loss_normalization sequence_mean a token counts 1 / its response's length (B,).
    """
    device = scores.logprobs.device
    per_token, statistics = policy_term(scores.logprobs, batch, response_lengths, s)
    if batch.weights is not None:
        per_token = per_token * batch.weights

    def taught(term: Tensor) -> Tensor:
        return term if batch.taught is None else term * batch.taught

    terms = {"loss/policy": (1.0, taught(per_token))}
    if batch.returns is not None and scores.values is not None and batch.old_values is not None:
        value = value_loss(scores.values, batch.old_values, batch.returns, s.value_clip_range)
        terms["loss/value"] = (s.value_coef, value)
    if batch.reference_logprobs is not None:
        kl = kl_loss(scores.logprobs, batch.reference_logprobs, s.kl_loss_estimator)
        terms["loss/kl"] = (s.kl_loss_coef, taught(kl))
    if s.entropy_coef:
        terms["policy/entropy"] = (-s.entropy_coef, taught(scores.entropy))
    if batch.right is not None:
        terms["loss/likelihood"] = (s.likelihood_coef, -scores.logprobs * batch.right)
    shares = None
    if s.loss_normalization == "sequence_mean":
        shares = torch.repeat_interleave(1 / response_lengths, response_lengths).to(device)
    loss = sum(
        (c * (term if shares is None else term * shares).sum() for c, term in terms.values()),
        start=torch.zeros((), device=device),
    )
    with torch.no_grad():
        statistics |= {name: term.sum() for name, (_, term) in terms.items()}
        statistics |= {"policy/entropy": scores.entropy.sum()}
    return loss, statistics


def policy_term(
    logprobs: Tensor, batch: Batch, response_lengths: Tensor, s: Update
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the policy's loss per token (tokens,), and its statistics, summed over them.

    policy/clipfrac counts the tokens that policy_loss clips: ppo by their own ratio, gspo by their response's, cispo
    those whose weight was clipped. The other statistics are of the tokens' own ratios in all three.
    """
    old, advantages, high = batch.old_logprobs, batch.advantages, s.clip_range_high
    with torch.no_grad():
        statistics = policy_statistics(logprobs, old, advantages, s.clip_range, high)
    if s.policy_loss == "cispo":
        term, clipped = cispo_loss(logprobs, old, advantages, s.clip_range, s.clip_range if high is None else high)
        return term, statistics | {"policy/clipfrac": clipped.sum()}
    if s.policy_loss == "gspo":
        ratios, zeros = sequence_log_ratios(logprobs, old, response_lengths.tolist()), torch.zeros_like(old)
        with torch.no_grad():
            of_responses = policy_statistics(ratios, zeros, advantages, s.clip_range, high)
        statistics["policy/clipfrac"] = of_responses["policy/clipfrac"]
        return policy_loss(ratios, zeros, advantages, s.clip_range, high), statistics
    return policy_loss(logprobs, old, advantages, s.clip_range, high, s.dual_clip), statistics


class NotFiniteError(PipelineError):
    """A loss or gradient that is no finite number, before it is said where the last good state is."""


def check_finite(loss: float, step: int, data: Sampled, indices: NDArray) -> None:
    """Raise NotFiniteError for a microbatch's loss that is no finite number."""
    if not math.isfinite(loss):
        names = ", ".join(data.sample_ids[i] for i in indices[:5])
        raise NotFiniteError(
            f"update: the loss of optimizer step {step} is {loss} (samples {names}, ...). "
            "Lower update.lr or update.max_grad_norm."
        )
