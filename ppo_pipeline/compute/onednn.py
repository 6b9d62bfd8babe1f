"""Products on CPUs with weights laid out once for oneDNN's kernels; a plain call does that anew each time, or never."""

import functools
import platform

import torch
from torch import Tensor

ROWS_HINT = 128  # the layout is chosen for this many rows; measured, it is good for 1 to 512
X86 = ("x86_64", "AMD64", "x86", "i386")


def reordered(weight: Tensor) -> Tensor:
    """Return a weight (out, in) in the kernels' layout, an opaque tensor of torch's mkldnn kind."""
    out: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS_HINT)
    return out


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Return x W^T, (..., in) to (..., out), by a weight that `reordered` gave."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, None, "none", [], "")
    return out


@functools.cache
def serves(dtype: torch.dtype) -> bool:
    """Tell whether this CPU has such kernels for a dtype, by a trial: torch has the functions where they raise.

    fp32 on x86 alone: on others they were not measured against torch's own product.
    """
    if not torch.backends.mkldnn.is_available() or (dtype == torch.float32 and platform.machine() not in X86):
        return False
    numbers = (torch.arange(1024) % 7 - 3).view(32, 32)  # whose products and sums are exact in bf16 too
    weight = numbers.to(dtype)
    try:
        return torch.equal(product(weight, reordered(weight)).long(), numbers @ numbers.T)
    except (AttributeError, RuntimeError):
        return False
