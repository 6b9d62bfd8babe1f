"""Weights laid out for the CPU's matrix kernels once, instead of at each call or never.

oneDNN's kernels want weights in blocks. torch reorders a plain bf16 weight in every call, which for the few rows of a
decoding step, or of a small minibatch, costs as much as the product itself; fp32 products it gives to another library,
which for 2 to 64 rows takes 1.2 to 4 times as long (docs/performance.md).
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..compute import head, onednn
from ..compute.native.row_invariant import by_rows, no_view
from .policy import Policy


class FrozenProduct(torch.autograd.Function):
    """A frozen layer's product, by its `product` and `back`, with the gradient for x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Any) -> Tensor:
        ctx.layer = layer
        return no_view(layer.product(x))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return ctx.layer.back(grad), None


class PrepackedLinear(nn.Module):
    """A linear layer whose frozen weight is kept in oneDNN's layout, for the backward pass in a second one."""

    def __init__(self, linear: nn.Linear, row_invariant: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packed = onednn.reordered(linear.weight.detach())
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
            return onednn.product(x, self.packed)
        key = ("packed", self.in_features, self.out_features)
        return by_rows(key, lambda part: onednn.product(part, self.packed), x.flatten(0, -2)).view(*x.shape[:-1], -1)

    def back(self, grad: Tensor) -> Tensor:
        """Return grad W, the gradient for x; the transposed weight is packed at the first backward pass."""
        if self._transposed is None:
            self._transposed = onednn.reordered(self.packed.to_dense().t())
        return onednn.product(grad, self._transposed)


def pack(layer: nn.Module) -> nn.Module:
    """Return a plain linear layer packed, any other as it is."""
    return PrepackedLinear(layer) if type(layer) is nn.Linear else layer


def can_prepack(model: Any, training: bool = False) -> bool:
    """Tell whether the model's weights are of a dtype for which the CPU's kernels have such a layout.

    In fp32 it gains nothing at the many rows of a training forward, which stays as it is.
    """
    packed = (torch.bfloat16,) if training else (torch.bfloat16, torch.float32)
    return model.device.type == "cpu" and model.dtype in packed and onednn.serves(model.dtype)


def prepack_linears(model: Any, training: bool = False, made: dict[int, PrepackedLinear] | None = None) -> None:
    """Replace the frozen linear layers of a model by packed ones, where that helps; LoRA beside them stays.

    training: for the training forward, which takes the head's weight as it is, and whose rows are to have the same bits
    in every batch. made: packed layers by the address of their weight, for a second model over the same weights.
    """
    if not can_prepack(model, training):
        return
    made = {} if made is None else made
    kept = model.get_output_embeddings() if training or head.widens(model.dtype) else None
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
