"""Log probabilities and entropies of chosen tokens, without ever holding all logits at a time."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..compute import head
from ..compute.native import operations as native
from ..compute.native.row_invariant import by_rows

LEAST = -1e4  # a log probability whose probability is 0 in every format; finite when multiplied, unlike -inf
CHUNK_TOKENS = 256  # rows of one product with the head
ROWS = 16  # rows of fp32 numbers at a time: they stay in the CPU's cache


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
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        logprobs = torch.empty(len(targets), dtype=wide, device=hidden.device)
        entropy = torch.full_like(logprobs, torch.nan)
        for start in range(0, len(targets), chunk):
            logits = head_logits(hidden[start : start + chunk], weight, bias, chunk)
            if native.serves(logits.device, logits.dtype):
                rows = slice(start, start + chunk)
                logprobs[rows], found = native.token_logprobs(logits, targets[rows], temperature)
                if with_entropy:
                    entropy[rows] = found
                continue
            for part, rows, scaled, every in _parts(logits, start, wide):
                torch.log_softmax(scaled.copy_(part).div_(temperature), -1, out=every)
                logprobs[rows] = every.gather(1, targets[rows, None]).squeeze(1)
                if not with_entropy:
                    continue
                # -sum p log p; a logit of -inf gives 0 * -inf, which counts as 0
                entropy[rows] = -torch.exp(every, out=scaled).mul_(every.clamp_(min=LEAST)).sum(-1)
        ctx.save_for_backward(hidden, weight, bias, targets, entropy)
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_logprobs, grad_entropy = grads
        if grad_logprobs is None and grad_entropy is None:
            return (None,) * 7
        hidden, weight, bias, targets, entropy = ctx.saved_tensors
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        # One chunk's product is the whole gradient; a sum of several is made in fp32, twice as large.
        several = len(targets) > ctx.chunk
        grad_weight = torch.zeros_like(weight, dtype=entropy.dtype) if need_weight and several else None
        grad_bias = torch.zeros_like(bias, dtype=entropy.dtype) if need_bias else None
        for start in range(0, len(targets), ctx.chunk):
            chunk = slice(start, start + ctx.chunk)
            grad = head_logits(hidden[chunk], weight, bias, ctx.chunk)  # the logits, then their gradient
            by_token = [None if g is None else g[chunk] for g in grads]
            _write_gradient(grad, targets[chunk], entropy[chunk], by_token, ctx.temperature)
            if grad_hidden is not None:
                grad_hidden[chunk] = grad @ weight
            if grad_weight is not None:
                grad_weight += grad.T @ hidden[chunk]
            elif need_weight:
                grad_weight = grad.T @ hidden[chunk]
            if grad_bias is not None:
                grad_bias += grad.sum(0)
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            None, None, None, None,
        )  # fmt: skip


def head_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, chunk: int = CHUNK_TOKENS) -> Tensor:
    """Return hidden W^T + b; on a CPU each row with the same bits among any others, `chunk` at most in a product."""
    key = ("head", tuple(weight.shape), bias is None)
    return by_rows(key, lambda x: torch.nn.functional.linear(x, weight, bias), hidden, most=chunk)


def _write_gradient(
    logits: Tensor, targets: Tensor, entropy: Tensor, grads: list[Tensor | None], temperature: float
) -> None:
    """Write over logits (n, V) the gradient by them; grads: by the n logprobs and by the n entropies, None for 0."""
    if native.serves(logits.device, logits.dtype):
        zeros = torch.zeros_like(entropy)
        by_logprob, by_entropy = (zeros if g is None else g for g in grads)
        entropy = zeros if grads[1] is None else entropy
        native.write_logit_gradient(logits, targets, entropy, by_logprob, by_entropy, temperature)
        return
    for part, rows, scaled, other in _parts(logits, 0, entropy.dtype):
        scaled.copy_(part).div_(temperature)
        by_token = [None if g is None else g[rows] / temperature for g in grads]
        part.copy_(_logit_gradient(scaled, other, targets[rows], entropy[rows], *by_token))


def _parts(logits: Tensor, start: int, wide: torch.dtype) -> Iterator[tuple[Tensor, slice, Tensor, Tensor]]:
    """Yield views of a few rows, where these are among all tokens, and room for two fp32 copies of them.

    The room is the same each time, since fresh memory costs as much as the work in it. On a GPU all rows come at once.
    """
    step = ROWS if logits.device.type == "cpu" else max(1, len(logits))
    room = torch.empty(2, min(step, len(logits)), logits.shape[1], dtype=wide, device=logits.device)
    for first in range(0, len(logits), step):
        part = logits[first : first + step]
        yield part, slice(start + first, start + first + len(part)), room[0, : len(part)], room[1, : len(part)]


def _logit_gradient(
    scaled: Tensor,
    other: Tensor,
    targets: Tensor,
    entropy: Tensor,
    by_logprob: Tensor | None,
    by_entropy: Tensor | None,
) -> Tensor:
    """Return the gradient by z, scaled = z / T: d lp / d z = (onehot - p) / T, d H / d z = -p (log p + H) / T.

    by_logprob, by_entropy: the gradients by these, each over T already. `scaled` and `other` are written over.
    """
    if by_entropy is None:
        assert by_logprob is not None
        grad = torch.softmax(scaled, -1, out=other).mul_(-by_logprob[:, None])
    else:
        torch.log_softmax(scaled, -1, out=other)
        grad = torch.exp(other, out=scaled)
        factor = other.clamp_(min=LEAST).add_(entropy[:, None]).mul_(-by_entropy[:, None])
        if by_logprob is not None:
            factor.sub_(by_logprob[:, None])
        grad.mul_(factor)
    if by_logprob is not None:
        grad.scatter_add_(1, targets[:, None], by_logprob[:, None])
    return grad


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: float = 1.0,
    chunk: int = CHUNK_TOKENS,
    with_entropy: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return log softmax(z / temperature)[target] and the entropy of that softmax, z = hidden W^T + b.

    hidden: (N, H) states before each target. weight: (V, H) and bias: (V,) of the language-model head.
    targets: (N,) token ids. Both results are (N,) in nats, fp32 whatever the model's dtype (float64 stays).
    Without `with_entropy` the second is NaN. Gradients flow to hidden, weight and bias. Peak memory is that of `chunk`
    rows of logits, not of N. With compute.head: fp32 the product is made of fp32 copies of hidden, weight and bias
    (MiniMax-M1, arXiv:2506.13585, section 3.2).
    """
    parts = _as_chosen(hidden, weight, bias)
    return _TokenLogprobs.apply(*parts, targets, temperature, chunk, with_entropy)  # type: ignore[no-any-return]


@torch.no_grad()
def likeliest_tokens(hidden: Tensor, weight: Tensor, bias: Tensor | None, chunk: int = CHUNK_TOKENS) -> Tensor:
    """Return the token of the highest logit at each state (N,); arguments as in `token_logprobs`."""
    hidden, weight, bias = _as_chosen(hidden, weight, bias)
    return torch.cat([head_logits(part, weight, bias, chunk).argmax(-1) for part in hidden.split(chunk)])


def _as_chosen(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return copies in fp32 where compute.head asks for them."""
    if not head.in_fp32():
        return hidden, weight, bias
    wide = torch.promote_types(hidden.dtype, torch.float32)
    return hidden.to(wide), weight.to(wide), None if bias is None else bias.to(wide)
