"""Weights laid out for the CPU's bf16 matrix kernels once, instead of at each call.

oneDNN's kernels want weights in blocks. torch reorders a plain weight in every call, which for the few rows of a
decoding step costs more than the product itself (docs/performance.md).
"""

from typing import Any

import torch
from torch import Tensor, nn

ROWS_HINT = 128  # the layout is chosen for this many rows; measured, it is good for 1 to 512


class PackedLinear(nn.Module):
    """A linear layer whose bf16 weight is kept in oneDNN's layout; for inference only."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS_HINT)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return out


def can_pack(model: Any) -> bool:
    """Tell whether the model's weights are bf16 on a CPU whose kernels have such a layout."""
    if model.device.type != "cpu" or model.dtype != torch.bfloat16 or not torch.backends.mkldnn.is_available():
        return False
    return all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))


def pack_linears(model: Any) -> None:
    """Replace the linear layers of a model that is only decoded with by packed ones, where that helps.

    The head is replaced too, where it is a linear layer; embeddings that share its weight keep theirs.
    """
    if not can_pack(model):
        return
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, PackedLinear(module))
