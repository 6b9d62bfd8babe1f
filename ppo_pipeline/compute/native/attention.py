"""The C kernels of attention.c for training: causal attention of sequences packed."""

from typing import Any

import torch
from torch import Tensor

from .operations import LANES, call, serves


def attends(q: Tensor) -> bool:
    """Tell whether the kernels take heads like those of q (..., d)."""
    return serves(q.device, q.dtype) and q.shape[-1] % LANES == 0


def attend_end_to_end(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, scale: float) -> Tensor:
    """Return softmax(scale q k) v, (N, heads, d), of each token with the prefix and its own sequence up to itself.

    q: (N, heads, d). k, v: (N, kv_heads, d). starts: (sequences + 2,) int64, where in the row of N tokens the prefix,
    each sequence, and what is behind the last one begin; there the result is 0.
    """
    return _Attend.apply(q, k, v, starts, scale)  # type: ignore[no-any-return]


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, starts: Tensor, scale: float) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        heads, (kv_heads, size) = q.shape[1], k.shape[1:]
        out, log_sums = torch.empty_like(q), torch.empty(q.shape[:2])
        sizes = (len(starts) - 1, kv_heads, heads // kv_heads, size)
        call("attend", q, q, k, v, starts, out, log_sums, *sizes, scale)
        ctx.end = int(starts[-1])
        out[ctx.end :] = 0
        ctx.save_for_backward(q, k, v, starts, log_sums)
        ctx.sizes, ctx.scale = sizes, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v, starts, log_sums = ctx.saved_tensors
        dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
        shared = torch.empty(ctx.sizes[0], k.shape[1], 2, int(starts[1]), k.shape[2])
        tensors = (q, k, v, grad.contiguous(), log_sums, starts, dq, dk, dv, shared)
        call("attend_backward", q, *tensors, *ctx.sizes, ctx.scale)
        for x in (dq, dk, dv):
            x[ctx.end :] = 0
        return dq, dk, dv, None, None
