"""Weights laid out for the CPU's bf16 matrix kernels once, instead of at each call.

oneDNN's kernels want weights in blocks. torch reorders a plain weight in every call, which for the few rows of a
decoding step, or of a small minibatch, costs as much as the product itself (docs/performance.md).
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn

from ..compute import head
from ..compute.native.operations import LANES
from ..compute.native.row_invariant import by_rows, no_view
from .policy import Policy

ROWS_HINT = 128  # the layout is chosen for this many rows; measured, it is good for 1 to 512


class FrozenProduct(torch.autograd.Function):
    """A frozen layer's product, by its `product` and `back`, with the gradient for x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Any) -> Tensor:
        ctx.layer = layer
        return no_view(layer.product(x))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return ctx.layer.back(grad), None


def _product(x: Tensor, packed: Tensor) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), packed, None, "none", [], "")
    return out


class PrepackedLinear(nn.Module):
    """A linear layer whose frozen bf16 weight is kept in oneDNN's layout, for the backward pass in a second one."""

    def __init__(self, linear: nn.Linear, row_invariant: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS_HINT)
        self.bias = linear.bias
        self._transposed: Tensor | None = None
        self.row_invariant = row_invariant

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b."""
        needs_gradient = torch.is_grad_enabled() and x.requires_grad
        out: Tensor = FrozenProduct.apply(x, self) if needs_gradient else self.product(x)
        return out if self.bias is None else out + self.bias

    def product(self, x: Tensor) -> Tensor:
        """Return x W^T; with `row_invariant` each row has the same bits among any other rows."""
        if not self.row_invariant:
            return _product(x, self.packed)
        key = ("packed", self.in_features, self.out_features)
        return by_rows(key, lambda part: _product(part, self.packed), x.flatten(0, -2)).view(*x.shape[:-1], -1)

    def back(self, grad: Tensor) -> Tensor:
        """Return grad W, the gradient for x; the transposed weight is packed at the first backward pass."""
        if self._transposed is None:
            self._transposed = torch.ops.mkldnn._reorder_linear_weight(self.packed.to_dense().t(), ROWS_HINT)
        return _product(grad, self._transposed)


def pack(layer: nn.Module) -> nn.Module:
    """Return a plain linear layer packed, any other as it is."""
    return PrepackedLinear(layer) if type(layer) is nn.Linear else layer


def can_prepack(model: Any) -> bool:
    """Tell whether the model's weights are bf16 on a CPU whose kernels have such a layout."""
    return model.device.type == "cpu" and model.dtype == torch.bfloat16 and _has_kernels()


@functools.cache
def _has_kernels() -> bool:
    """Try it: that the functions are there says nothing of the processor, which may have too few instructions."""
    if not torch.backends.mkldnn.is_available():
        return False
    weight = torch.zeros(LANES, LANES, dtype=torch.bfloat16)
    try:
        _product(weight, torch.ops.mkldnn._reorder_linear_weight(weight, ROWS_HINT))
    except (AttributeError, RuntimeError):
        return False
    return True


def prepack_linears(model: Any, training: bool = False, made: dict[int, PrepackedLinear] | None = None) -> None:
    """Replace the frozen linear layers of a model by packed ones, where that helps; LoRA beside them stays.

    training: for the training forward, which takes the head's weight as it is, and whose rows are to have the same bits
    in every batch. made: packed layers by the address of their weight, for a second model over the same weights.
    """
    if not can_prepack(model):
        return
    made = {} if made is None else made
    kept = model.get_output_embeddings() if training or head.in_fp32() else None
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and module is not kept and not module.weight.requires_grad:
            address = module.weight.data_ptr()
            if address not in made:
                made[address] = PrepackedLinear(module, training)
            model.set_submodule(name, made[address])


def prepack_policy(policy: Policy) -> None:
    """Pack what is frozen in a policy and its critic, for the training forward and its backward pass."""
    if policy.layers:
        made: dict[int, PrepackedLinear] = {}
        prepack_linears(policy.model, training=True, made=made)
        if policy.separate is not None:
            prepack_linears(policy.separate.model, training=True, made=made)
