"""Policy losses beside PPO's, per token: GSPO, whose ratio is the response's, and CISPO, which clips a weight."""

import torch
from torch import Tensor


def sequence_log_ratios(logprobs: Tensor, old_logprobs: Tensor, lengths: list[int]) -> Tensor:
    """Return log s_i at each token of response i, with the gradient of that token's logprob.

        s_i   = exp(1/T_i sum over t of (logprobs_t - old_logprobs_t))
        s_i,t = sg[s_i] pi_t / sg[pi_t],   so that s_i,t = s_i, and its gradient is s_i times that of log pi_t

    logprobs, old_logprobs: responses concatenated (tokens,). lengths: tokens of each.
    In place of PPO's log ratio they make it GSPO-token (Zheng et al. 2025, arXiv:2507.18071, eq. 7, 13 and 14), for
    advantages by token. Where a response has one advantage that is GSPO itself (eq. 5), in value and gradient.
    """
    parts = (logprobs - old_logprobs).detach().split(lengths)
    means = torch.cat([part.mean().expand(len(part)) for part in parts])
    return means + (logprobs - logprobs.detach())


def cispo_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_range: float, clip_range_high: float
) -> tuple[Tensor, Tensor]:
    """Return -sg[clip(rho, 1 - eps, 1 + eps_high)] A logprobs per token, and whether the weight was clipped.

    rho = exp(logprobs - old_logprobs). A clipped token still has a gradient, and no bound depends on A's sign. All
    tensors have one shape. Source: MiniMax 2025, arXiv:2506.13585, eq. 4 and 5; they leave the lower bound out, as
    clip_range 1 does here.
    """
    ratio = torch.exp(logprobs - old_logprobs).detach()
    weight = torch.clamp(ratio, 1 - clip_range, 1 + clip_range_high)
    return -weight * advantages * logprobs, weight != ratio
