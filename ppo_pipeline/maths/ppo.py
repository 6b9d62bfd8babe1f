"""The losses of PPO (Schulman et al. 2017, arXiv:1707.06347), per token."""

import torch
from torch import Tensor


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    clip_range: float,
    clip_range_high: float | None = None,
    dual_clip: float | None = None,
) -> Tensor:
    """Return max(-A rho, -A clip(rho, 1 - eps, 1 + eps_high)) per token, rho = exp(logprobs - old_logprobs).

    All tensors have one shape; the caller averages over the tokens of the whole minibatch.
    clip_range_high: eps_high, eps itself where None (clip-higher: DAPO, Yu et al. 2025, arXiv:2503.14476).
    dual_clip: c; where A < 0 the loss is at most -c A, so that a ratio far above 1 pushes no harder (Ye et al. 2020,
        arXiv:1912.09729, eq. 5).
    """
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = torch.clamp(ratio, 1 - clip_range, 1 + _high(clip_range, clip_range_high))
    loss = torch.maximum(-advantages * ratio, -advantages * clipped)
    if dual_clip is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -advantages * dual_clip), loss)
    return loss


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip_range: float | None) -> Tensor:
    """Return 0.5 max((v - R)^2, (v_clip - R)^2) per token, v_clip = old + clamp(v - old, -eps, eps).

    With `clip_range` None: 0.5 (v - R)^2. Source: OpenAI baselines' ppo2, as in TRL 1.12.
    """
    squared = (values - returns) ** 2
    if clip_range is not None:
        clipped = old_values + torch.clamp(values - old_values, -clip_range, clip_range)
        squared = torch.maximum(squared, (clipped - returns) ** 2)
    return 0.5 * squared


def kl_loss(logprobs: Tensor, reference: Tensor, estimator: str) -> Tensor:
    """Return the KL from the reference per token as a term of the loss: k2 or k3 of `maths.kl`, with gradient.

    The gradient of k2 is on average that of KL(policy || reference); that of k3 (GRPO's) is on average that of
    KL(reference || policy), which agrees near the reference. k1's is 0 on average, so it is not offered.
    """
    difference = logprobs - reference
    if estimator == "k2":
        return 0.5 * difference.square()
    if estimator == "k3":
        return torch.expm1(-difference) + difference
    raise ValueError(f"unknown KL estimator of the loss {estimator!r}; use k2 or k3")


def policy_statistics(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    clip_range: float,
    clip_range_high: float | None = None,
) -> dict[str, Tensor]:
    """Return sums over tokens of what the update reports: approxkl, clipfrac, ratio.

    approxkl = 0.5 (logprobs - old)^2; clipfrac counts the tokens whose clipped branch is the larger loss.
    """
    difference = logprobs - old_logprobs
    ratio = torch.exp(difference)
    clipped = torch.clamp(ratio, 1 - clip_range, 1 + _high(clip_range, clip_range_high))
    return {
        "policy/approxkl": 0.5 * difference.square().sum(),
        "policy/clipfrac": (-advantages * clipped > -advantages * ratio).sum(),
        "val/ratio": ratio.sum(),
    }


def _high(clip_range: float, clip_range_high: float | None) -> float:
    return clip_range if clip_range_high is None else clip_range_high
