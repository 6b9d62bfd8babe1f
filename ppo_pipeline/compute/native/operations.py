"""The C kernels of layers.c and attention.c for tensors: each function is one operation with its gradient.

x and what else has as many numbers must be on the CPU, in bf16 or fp32; `serves` tells. Results are new tensors.
"""

from ctypes import c_float, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from .. import crowd
from .library import kernels

SUFFIXES = {torch.bfloat16: "_bf16", torch.float32: "_fp32"}
LANES = 16  # sizes of heads are a multiple of it, as in numbers.h


def serves(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether the kernels are there for tensors of this kind."""
    return device.type == "cpu" and dtype in SUFFIXES and kernels() is not None


def call(name: str, like: Tensor, *arguments: Tensor | int | float) -> None:
    """Call a kernel in the variant for the dtype of `like`, with its arguments and the number of threads."""
    converted = [
        c_void_p(a.data_ptr()) if isinstance(a, Tensor) else c_float(a) if isinstance(a, float) else c_int64(a)
        for a in arguments
    ]
    crowd.look()  # here, since every layer passes by: a step of a large model lasts seconds
    getattr(kernels(), name + SUFFIXES[like.dtype])(*converted, torch.get_num_threads())


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return w x / sqrt(mean(x^2) + eps) over the last dimension (Zhang and Sennrich 2019, arXiv:1910.07467)."""
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _RmsNorm.apply(x, weight, eps)  # type: ignore[no-any-return]
    return _rms_norm(x.contiguous(), weight, eps)


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    y = torch.empty_like(x)
    call("rms_norm", x, x, weight, y, x.numel() // x.shape[-1], x.shape[-1], eps)
    return y


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return _rms_norm(x, weight, eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        grad, dx, dw = grad.contiguous(), torch.empty_like(x), None
        call("rms_norm_backward", x, x, weight, grad, dx, x.numel() // x.shape[-1], x.shape[-1], ctx.eps)
        if ctx.needs_input_grad[1]:
            wide = x.float()
            scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + ctx.eps)
            dw = (grad.float() * scaled).flatten(0, -2).sum(0).to(weight.dtype)
        return dx, dw, None


def silu_times(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) up, the inner product of a gated MLP (SwiGLU; Shazeer 2020, arXiv:2002.05202)."""
    if torch.is_grad_enabled() and (gate.requires_grad or up.requires_grad):
        return _SiluTimes.apply(gate, up)  # type: ignore[no-any-return]
    return _silu_times(gate.contiguous(), up.contiguous())


def _silu_times(gate: Tensor, up: Tensor) -> Tensor:
    y = torch.empty_like(gate)
    call("silu_times", gate, gate, up, y, gate.numel())
    return y


class _SiluTimes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        return _silu_times(gate, up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        gate, up = ctx.saved_tensors
        dgate, dup = torch.empty_like(gate), torch.empty_like(up)
        call("silu_times_backward", gate, gate, up, grad.contiguous(), dgate, dup, gate.numel())
        return dgate, dup


def rotary(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Return x (..., heads, d) rotated by its tokens' cosine and sine (..., d) (Su et al. 2021, arXiv:2104.09864).

    Halves (a, b) of each head become (a cos - b sin, b cos + a sin), as in transformers' Llama.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        return _Rotary.apply(x, cosine, sine)  # type: ignore[no-any-return]
    return _rotary(x.contiguous(), cosine, sine, 1.0)


def _rotary(x: Tensor, cosine: Tensor, sine: Tensor, sign: float) -> Tensor:
    heads, size = x.shape[-2:]
    if x.device.type != "cpu":
        y, half = x * cosine[..., None, :], size // 2
        first, second = sine[..., None, :half], sine[..., None, half:]
        if sign < 0:  # the transposed rotation
            first, second = second, first
        y[..., :half].addcmul_(x[..., half:], first, value=-sign)
        y[..., half:].addcmul_(x[..., :half], second, value=sign)
        return y
    y = torch.empty_like(x)
    call("rotary", x, x, cosine, sine, y, x.numel() // (heads * size), heads, size, sign)
    return y


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        return _rotary(x.contiguous(), cosine, sine, 1.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        cosine, sine = ctx.saved_tensors
        return _rotary(grad.contiguous(), cosine, sine, -1.0), None, None


def attend_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cosine: Tensor,
    sine: Tensor,
    positions: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float,
) -> Tensor:
    """Return the attention of one new token in each row, from its query, key and value before the rotary embedding.

    q: (n, heads, d). k, v: (n, kv_heads, d), written to keys and values (slots, kv_heads, capacity, d) at positions
    (n,) of the first n slots. cosine, sine: (n, d). The result, (n, heads, d), is softmax(scale q k) v over each row's
    keys up to its position.
    """
    out = torch.empty_like(q)
    rows, heads, size = q.shape
    kv_heads, capacity = keys.shape[1:3]
    call(
        "attend_step", q, q.contiguous(), k.contiguous(), v.contiguous(), cosine, sine, positions, keys, values, out,
        rows, kv_heads, heads // kv_heads, size, capacity, scale,
    )  # fmt: skip
    return out


def draw_tokens(logits: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return tokens (n,) drawn from softmax(logits / temperature), and their logprobs (n,) in fp32.

    logits: (n, V). uniforms: (n,) float64 in [0, 1); sampling/draw.py says what they are for.
    """
    tokens, logprobs = torch.empty(len(logits), dtype=torch.int64), torch.empty(len(logits))
    call("draw", logits, logits.contiguous(), uniforms, tokens, logprobs, *logits.shape, float(temperature))
    return tokens, logprobs


def token_logprobs(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return log softmax(logits / temperature)[target] and that softmax's entropy, (n,) in fp32; logits: (n, V)."""
    logprobs, entropy = torch.empty(len(logits)), torch.empty(len(logits))
    call("logprobs", logits, logits, targets.contiguous(), logprobs, entropy, *logits.shape, float(temperature))
    return logprobs, entropy


def write_logit_gradient(
    logits: Tensor, targets: Tensor, entropy: Tensor, by_logprob: Tensor, by_entropy: Tensor, temperature: float
) -> None:
    """Write over logits (n, V) the gradient by them; by_logprob, by_entropy (n,): by token_logprobs' results."""
    vectors = [x.float().contiguous() for x in (entropy, by_logprob / temperature, by_entropy / temperature)]
    call("logprobs_backward", logits, logits, targets.contiguous(), *vectors, *logits.shape, float(temperature))
