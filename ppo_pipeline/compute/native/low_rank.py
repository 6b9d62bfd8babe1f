"""The C kernels of lora.c: products with LoRA's few columns. A, and B transposed, are (r, width) in fp32."""

import torch
from torch import Tensor

from .operations import LANES, call


def fits(*widths: int) -> bool:
    """Tell whether the kernels take matrices of these widths."""
    return all(width % LANES == 0 for width in widths)


def down(x: Tensor, a: Tensor, scale: float = 1.0) -> Tensor:
    """Return scale x A^T: (n, width) to (n, r) in fp32."""
    low = torch.empty(len(x), len(a))
    call("lora_down", x, x, a, low, len(x), x.shape[1], len(a), scale)
    return low


def add_up(y: Tensor, low: Tensor, a: Tensor, scale: float) -> None:
    """Add scale low A to y (n, width) in place; low is (n, r) in fp32."""
    call("lora_up", y, low, a, y, len(low), y.shape[1], len(a), scale, 1.0)


def up(low: Tensor, a: Tensor, dtype: torch.dtype) -> Tensor:
    """Return low A: (n, r) to (n, width)."""
    y = torch.empty(len(low), a.shape[1], dtype=dtype)
    call("lora_up", y, low, a, y, len(low), y.shape[1], len(a), 1.0, 0.0)
    return y


def gradient(low: Tensor, x: Tensor, scale: float = 1.0) -> Tensor:
    """Return scale low^T x: (n, r) and (n, width) to (r, width) in fp32."""
    da = torch.empty(low.shape[1], x.shape[1])
    call("lora_gradient", x, low, x, da, len(x), x.shape[1], low.shape[1], scale)
    return da
