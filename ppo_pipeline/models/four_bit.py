"""A frozen base in 4 bits: NF4 with quantized scales (QLoRA; Dettmers et al. 2023, arXiv:2305.14314).

A layer's weight is kept as bitsandbytes packs it, 4.13 bits a number, and unpacked for each product, in the forward
and in the backward pass. All that runs the model multiplies by these very numbers: sampler, training forward,
reference. So the first ratio is 1, and LoRA is never merged but for `ppo-pipeline export`.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..compute.native.row_invariant import by_rows
from ..errors import PipelineError
from ..storage.files import read_json
from .bitsandbytes_library import functional
from .loading import load_model
from .prepacked import FrozenProduct

FILE = "quantization.json"  # in policy/, beside the adapter: arguments of transformers' BitsAndBytesConfig
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
BLOCK = 64


class FourBitLinear(nn.Linear):
    """A frozen linear layer whose weight is kept in 4 bits; `weight` is what it computes with, made at each look."""

    def __init__(self, linear: nn.Linear, device: torch.device) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().to(device)
        packed, self.scales = functional().quantize_4bit(
            weight, blocksize=BLOCK, quant_type="nf4", compress_statistics=True
        )
        self.register_buffer("packed", packed, persistent=False)
        self.bias = linear.bias
        self.train(linear.training)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """Return the numbers (out, in) that the 4 bits stand for, in the model's dtype."""
        unpacked: Tensor = functional().dequantize_4bit(self.packed, self.scales)
        return unpacked

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b; autograd keeps no unpacked weight."""
        if torch.is_grad_enabled() and x.requires_grad:
            return FrozenProduct.apply(x, self)  # type: ignore[no-any-return]
        return self.product(x)

    def product(self, x: Tensor) -> Tensor:
        """Return x W^T + b, on a CPU each row with the same bits among any other rows."""
        weight, bias = self.weight, self.bias
        key = ("linear", (self.out_features, self.in_features), bias is None)
        rows = by_rows(key, lambda part: nn.functional.linear(part, weight, bias), x.flatten(0, -2))
        return rows.view(*x.shape[:-1], -1)

    def back(self, grad: Tensor) -> Tensor:
        """Return grad W, the gradient for x."""
        return grad @ self.weight


def quantization_of(policy: Path) -> dict[str, Any] | None:
    """Return how the base beneath a policy folder's adapter is quantized, None where it is as it is.

    Raises PipelineError for a quantization that is not known here.
    """
    if not (policy / FILE).is_file():
        return None
    found = read_json(policy / FILE)
    if found != NF4:
        raise PipelineError(f"{policy / FILE}: a quantization that is not known here; delete {policy} and rerun.")
    return found


def load_base(base: Path, policy: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """Return the model at `base`, in 4 bits where the policy's adapter is for such a one.

    It comes to a GPU layer by layer, so that the whole model need not fit there.
    """
    if quantization_of(policy) is None:
        return load_model(base, device, dtype)
    if device.type not in ("cpu", "cuda"):
        raise PipelineError(
            f"params.yaml: policy.quantization: not there for the device {device.type}; set it to null."
        )
    model = load_model(base, torch.device("cpu"), dtype)
    for name in quantizable(model):
        model.set_submodule(name, FourBitLinear(model.get_submodule(name), device))
    return model.to(device)


def quantizable(model: Any) -> list[str]:
    """Return the paths of the linear layers that are quantized: all but the head; PipelineError without any."""
    head = model.get_output_embeddings()
    found = [name for name, module in model.named_modules() if type(module) is nn.Linear and module is not head]
    if not found:
        raise PipelineError(
            f"params.yaml: policy.quantization: {type(model).__name__} has no linear layers besides its head; set it "
            "to null."
        )
    return found


def unpack_linears(model: Any) -> None:
    """Replace layers in 4 bits by plain ones of the very same numbers; nothing in any other model."""
    for name, module in list(model.named_modules()):
        if isinstance(module, FourBitLinear):
            plain = nn.Linear(module.in_features, module.out_features, module.bias is not None, device="meta")
            plain.weight = nn.Parameter(module.weight, requires_grad=False)
            plain.bias = module.bias
            model.set_submodule(name, plain.train(module.training))
