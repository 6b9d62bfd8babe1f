"""Sums in double precision: on the device of the numbers, or on the host where that device has none (Apple's GPU)."""

import torch
from torch import Tensor

from ..compute.device import has_float64

BLOCK = 256


def double(x: Tensor) -> Tensor:
    """Return float64 numbers, on the host where the device of `x` has no such format."""
    return x.double() if has_float64(x.device) else x.cpu().double()


def blocks(x: Tensor) -> Tensor:
    """Return rows (n, V) as blocks (n, ceil(V / BLOCK), BLOCK), filled up with 0."""
    return torch.nn.functional.pad(x, (0, -x.shape[-1] % BLOCK)).view(len(x), -1, BLOCK)


def row_sums(x: Tensor) -> Tensor:
    """Return the sum of each row (n,) in float64; where the device has none, its blocks are added in fp32 first."""
    if has_float64(x.device):
        return x.sum(dim=-1, dtype=torch.float64)
    return double(blocks(x).sum(dim=-1)).sum(dim=-1)
