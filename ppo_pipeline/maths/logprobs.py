"""Log probabilities and entropies of chosen tokens, without ever holding all logits at a time."""

from typing import Any

import torch
from torch import Tensor

CHUNK_TOKENS = 128


class _TokenLogprobs(torch.autograd.Function):
    """Chunks over tokens; the backward pass computes each chunk's logits anew instead of keeping them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        logprobs = torch.empty(len(targets), dtype=wide, device=hidden.device)
        entropy = torch.empty_like(logprobs)
        lse = torch.empty_like(logprobs)
        for start in range(0, len(targets), chunk):
            rows = slice(start, start + chunk)
            logits = _logits(hidden[rows], weight, bias, temperature, wide)
            lse[rows] = torch.logsumexp(logits, dim=-1)
            every = logits.sub_(lse[rows, None])  # in place: a chunk's logits are large, fresh memory is dear
            logprobs[rows] = every.gather(1, targets[rows, None]).squeeze(1)
            # -sum p log p; a logit of -inf gives 0 * -inf, which counts as 0
            entropy[rows] = -torch.linalg.vecdot(torch.exp(every), every.clamp_(min=torch.finfo(wide).min))
        ctx.save_for_backward(hidden, weight, bias, targets, lse, entropy)
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_logprobs, grad_entropy = grads
        if grad_logprobs is None and grad_entropy is None:
            return (None,) * 6
        hidden, weight, bias, targets, lse, entropy = ctx.saved_tensors
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        wide = lse.dtype
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=wide) if need_weight else None
        grad_bias = torch.zeros_like(bias, dtype=wide) if need_bias else None
        for start in range(0, len(targets), ctx.chunk):
            rows = slice(start, start + ctx.chunk)
            every = _logits(hidden[rows], weight, bias, ctx.temperature, wide).sub_(lse[rows, None])
            grad = torch.exp(every)
            if grad_entropy is not None:  # d H / d z = -p (log p + H)
                factor = every.clamp_(min=torch.finfo(wide).min).add_(entropy[rows, None])
                factor.mul_(-grad_entropy[rows, None])
            else:
                factor = torch.zeros_like(lse[rows, None])
            if grad_logprobs is not None:  # d lp / d z = onehot - p
                factor = factor.sub_(grad_logprobs[rows, None])
            grad.mul_(factor)
            if grad_logprobs is not None:
                grad.scatter_add_(1, targets[rows, None], grad_logprobs[rows, None])
            grad = grad.div_(ctx.temperature).to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = grad @ weight
            if grad_weight is not None:
                grad_weight += grad.T @ hidden[rows]
            if grad_bias is not None:
                grad_bias += grad.sum(0)
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            None, None, None,
        )  # fmt: skip


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, wide: torch.dtype) -> Tensor:
    return torch.nn.functional.linear(hidden, weight, bias).to(wide).div_(temperature)


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: float = 1.0,
    chunk: int = CHUNK_TOKENS,
) -> tuple[Tensor, Tensor]:
    """Return log softmax(z / temperature)[target] and the entropy of that softmax, z = hidden W^T + b.

    hidden: (N, H) states before each target. weight: (V, H) and bias: (V,) of the language-model head.
    targets: (N,) token ids. Both results are (N,) in nats, fp32 whatever the model's dtype (float64 stays).
    Peak memory is that of `chunk` rows of logits, not of N. Gradients flow to hidden, weight and bias.
    """
    return _TokenLogprobs.apply(hidden, weight, bias, targets, temperature, chunk)  # type: ignore[no-any-return]
