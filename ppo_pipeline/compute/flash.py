"""Attention of sequences that lie end to end, by the flash kernels that torch has for NVIDIA's GPUs.

No padding and no mask: the kernel is told where each sequence's queries and keys begin (Dao 2023, arXiv:2307.08691,
the "varlen" form). Called as torch's operators, since `torch.nn.attention.varlen` takes other arguments by version.
AMD's do not take the number of keys that a step sees.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .device import determinism

WIDEST = 256  # numbers of a head
ALIGNED = 8


class Spans(NamedTuple):
    """Which keys (M, ...) each of S sequences of queries (N, ...) sees, the last query the last key; on the GPU.

    queries, keys: (S + 1,) int32, where each begins. most_queries, most_keys: of a sequence. used: (S,) int32, how many
    of its keys a sequence sees, all without.
    """

    queries: Tensor
    keys: Tensor
    most_queries: int
    most_keys: int
    used: Tensor | None = None


def serves(device: torch.device, dtype: torch.dtype, size: int) -> bool:
    """Tell whether the kernels take heads of `size` numbers there."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    if size > WIDEST or size % ALIGNED or not torch.backends.cuda.is_flash_attention_available():
        return False
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


def attend(q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float) -> Tensor:
    """Return softmax(scale q k) v, (N, heads, d), causally within each sequence.

    q: (N, heads, d). k, v: (M, kv_heads, d). Each query head takes the keys of head // (heads / kv_heads).
    """
    return _Flash.apply(q, k, v, spans, scale)  # type: ignore[no-any-return]


class _Flash(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float) -> Tensor:
        out, log_sums, *random = torch.ops.aten._flash_attention_forward(
            q, k, v, *spans[:4], 0.0, spans.most_queries > 1, False, scale=scale, seqused_k=spans.used
        )
        ctx.save_for_backward(q, k, v, out, log_sums, *random[:2])
        ctx.spans, ctx.scale = spans, scale
        return out  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v, out, log_sums, *random = ctx.saved_tensors
        with determinism("error"):
            dq, dk, dv = torch.ops.aten._flash_attention_backward(
                grad.contiguous(), q, k, v, out, log_sums, *ctx.spans[:4], 0.0, ctx.spans.most_queries > 1, *random,
                scale=ctx.scale,
            )  # fmt: skip
        return dq, dk, dv, None, None
