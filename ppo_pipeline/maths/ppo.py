"""The clipped losses of PPO (Schulman et al. 2017, arXiv:1707.06347), per token."""

import torch
from torch import Tensor


def policy_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """Return max(-A rho, -A clip(rho, 1 - eps, 1 + eps)) per token, rho = exp(logprobs - old_logprobs).

    All arguments have one shape; the caller averages over the tokens of the whole minibatch.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = torch.clamp(ratio, 1 - clip_range, 1 + clip_range)
    return torch.maximum(-advantages * ratio, -advantages * clipped)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip_range: float | None) -> Tensor:
    """Return 0.5 max((v - R)^2, (v_clip - R)^2) per token, v_clip = old + clamp(v - old, -eps, eps).

    With `clip_range` None: 0.5 (v - R)^2. Source: OpenAI baselines' ppo2, as in TRL 1.12.
    """
    squared = (values - returns) ** 2
    if clip_range is not None:
        clipped = old_values + torch.clamp(values - old_values, -clip_range, clip_range)
        squared = torch.maximum(squared, (clipped - returns) ** 2)
    return 0.5 * squared


def policy_statistics(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_range: float
) -> dict[str, Tensor]:
    """Return sums over tokens of what the update reports: approxkl, clipfrac, ratio.

    approxkl = 0.5 (logprobs - old)^2; clipfrac counts the tokens whose clipped branch is the larger loss.
    """
    difference = logprobs - old_logprobs
    ratio = torch.exp(difference)
    clipped = torch.clamp(ratio, 1 - clip_range, 1 + clip_range)
    return {
        "policy/approxkl": 0.5 * difference.square().sum(),
        "policy/clipfrac": (-advantages * clipped > -advantages * ratio).sum(),
        "val/ratio": ratio.sum(),
    }
