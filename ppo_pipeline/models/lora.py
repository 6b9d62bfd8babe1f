"""LoRA (Hu et al. 2021, arXiv:2106.09685), written out: y = W x + s B A x, with W frozen and s = alpha / r.

Rank-stabilised LoRA (Kalajdzievski 2023, arXiv:2312.03732) has s = alpha / sqrt(r).
"""

import copy
import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..compute.native import low_rank
from ..compute.native.operations import serves
from ..compute.native.row_invariant import by_rows, is_conv1d, no_view
from ..errors import PipelineError, nearest


class _AddLowRank(torch.autograd.Function):
    """y + s (x A^T) B^T, A and B rounded to the dtype of x; one node of the graph in place of ten."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
        rows, low_a, low_b = x.flatten(0, -2), a.to(x.dtype), b.to(x.dtype)
        low = by_rows(("down", *low_a.shape), lambda x: x @ low_a.T, rows)
        ctx.save_for_backward(rows, low_a, low_b, low)
        ctx.scaling = scaling
        add_up = partial(_add_up, low_b.T, scaling)
        return no_view(by_rows(("up", *low_b.shape, scaling), add_up, y.flatten(0, -2), low), *y.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, a, b, low = ctx.saved_tensors
        flat = grad.flatten(0, -2)
        grad_low = (flat @ b).mul_(ctx.scaling)
        grad_x = (grad_low @ a).view(*grad.shape[:-1], -1) if ctx.needs_input_grad[1] else None
        return grad, grad_x, (grad_low.T @ rows).float(), (flat.T @ low).float().mul_(ctx.scaling), None


def _add_up(b_transposed: Tensor, scaling: float, y: Tensor, low: Tensor) -> Tensor:
    return torch.addmm(y, low, b_transposed, alpha=scaling)


class _WithLowRank(torch.autograd.Function):
    """A frozen base layer and its update at once, by kernels of our own; A and B stay in fp32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: Any, a: Tensor, b: Tensor, scaling: float) -> Tensor:
        rows, b_transposed = x.flatten(0, -2).contiguous(), b.T.contiguous()
        y: Tensor = base(rows)
        low = low_rank.down(rows, a)
        low_rank.add_up(y, low, b_transposed, scaling)
        ctx.save_for_backward(rows, a, b_transposed, low)
        ctx.base, ctx.scaling = base, scaling
        return no_view(y, *x.shape[:-1], y.shape[-1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, a, b_transposed, low = ctx.saved_tensors
        flat = grad.flatten(0, -2).contiguous()
        grad_low = low_rank.down(flat, b_transposed, ctx.scaling)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = ctx.base.back(flat) if hasattr(ctx.base, "back") else flat @ ctx.base.weight
            low_rank.add_up(grad_x, grad_low, a, 1.0)
            grad_x = grad_x.view(*grad.shape[:-1], -1)
        return grad_x, None, low_rank.gradient(grad_low, rows), low_rank.gradient(low, flat, ctx.scaling).T, None


class NoPlaceForLora(PipelineError):
    """LoRA on some layers would be wrong, without effect, or lost in PEFT; `kinds`: their paths with * for numbers."""

    def __init__(self, text: str, paths: Iterable[str]) -> None:
        super().__init__(f"params.yaml: policy.target_modules: {text}")
        self.kinds = list(dict.fromkeys(map(kind_of, paths)))


def kind_of(path: str) -> str:
    """Return a layer's path with * for its numbers: the same layer of every block."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", path)


class LoraLinear(nn.Module):
    """A frozen linear or Conv1D layer with a trained low-rank update beside it.

    lora_A: (r, in) and lora_B: (out, r), in fp32 whatever the base's dtype; used in the input's dtype.
    B starts at 0, so that the layer first computes exactly what its base does.
    """

    def __init__(self, base: nn.Module, rank: int, alpha: float, dropout: float, use_rslora: bool = False) -> None:
        super().__init__()
        self.base = base
        in_features, out_features = features_of(base)
        device = base.weight.device
        self.lora_A = nn.Parameter(torch.zeros(rank, in_features, device=device))  # type: ignore[arg-type]
        self.lora_B = nn.Parameter(torch.zeros(out_features, rank, device=device))  # type: ignore[arg-type]
        self.scaling = alpha / math.sqrt(rank) if use_rslora else alpha / rank
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)  # a new module is in training mode: its dropout would be on in every forward
        self.enabled = True

    def forward(self, x: Tensor) -> Tensor:
        """Return the base's output, plus the scaled update where LoRA is on."""
        if not self.enabled:
            return self.base(x)
        if self._served(x):
            return _WithLowRank.apply(x, self.base, self.lora_A, self.lora_B, self.scaling)  # type: ignore[no-any-return]
        out = self.base(x)
        added: Tensor = _AddLowRank.apply(out, self.dropout(x), self.lora_A, self.lora_B, self.scaling)
        return added

    def _served(self, x: Tensor) -> bool:
        """Tell whether kernels of our own do the whole layer."""
        fits = low_rank.fits(self.lora_A.shape[1], len(self.lora_B)) and not is_conv1d(self.base)
        drops = self.dropout.p > 0 and self.dropout.training
        return fits and not drops and serves(x.device, x.dtype) and next(self.base.parameters(), x).dtype == x.dtype

    def delta(self) -> Tensor:
        """Return the update of the weight, s B A, in fp32 and in the base weight's own layout."""
        delta = (self.lora_B @ self.lora_A) * self.scaling
        return delta.T if is_conv1d(self.base) else delta


def features_of(module: nn.Module) -> tuple[int, int]:
    """Return (in, out) of a linear or Conv1D layer."""
    rows, columns = module.weight.shape
    return (rows, columns) if is_conv1d(module) else (columns, rows)


def matching_modules(model: Any, targets: list[str] | str) -> dict[str, nn.Module]:
    """Return the linear layers that get LoRA, by path in the model's order; PEFT's rules.

    targets: a list has the layers whose path is an entry or ends in one; a text those whose whole path matches
    it as a regular expression; `all-linear` all but the language-model head.
    Raises PipelineError naming the first target that matches nothing, and for the head: logprobs here are taken
    from its own weight.
    """
    linear = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear) or is_conv1d(module)
    }
    head = model.get_output_embeddings()
    if targets == "all-linear":
        return {name: module for name, module in linear.items() if module is not head}
    found = _matching_pattern(linear, targets) if isinstance(targets, str) else _matching_names(linear, targets)
    for name, module in found.items():
        if module is head:
            raise PipelineError(
                f"params.yaml: policy.target_modules: '{name}' is the language-model head, which gets no LoRA here; "
                "leave it out, or take all-linear."
            )
    return found


def _matching_pattern(linear: dict[str, nn.Module], pattern: str) -> dict[str, nn.Module]:
    matched = {name: module for name, module in linear.items() if re.fullmatch(pattern, name)}
    if not matched:
        raise PipelineError(
            f"params.yaml: policy.target_modules: the pattern '{pattern}' matches the whole path of no linear "
            f"layer; a path is for instance '{next(iter(linear), '')}'."
        )
    return matched


def _matching_names(linear: dict[str, nn.Module], targets: list[str]) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {}
    unused = set(targets)
    for name, module in linear.items():
        for target in targets:
            if name == target or name.endswith("." + target):
                found[name] = module
                unused.discard(target)
    if unused:
        target = next(t for t in targets if t in unused)
        kinds = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise PipelineError(
            f"params.yaml: policy.target_modules: the model has no linear layer '{target}'."
            f"{nearest(target, kinds)} It has: {', '.join(kinds)}."
        )
    return found


def add_lora(
    model: nn.Module, targets: list[str] | str, rank: int, alpha: float, dropout: float, use_rslora: bool = False
) -> dict[str, LoraLinear]:
    """Put a LoraLinear in the place of each matching layer; return them by path."""
    layers = {}
    for name, module in matching_modules(model, targets).items():
        layers[name] = LoraLinear(module, rank, alpha, dropout, use_rslora)
        model.set_submodule(name, layers[name])
    return layers


def remove_lora(model: nn.Module, layers: dict[str, LoraLinear], kinds: list[str]) -> None:
    """Take LoRA off the layers of these kinds, in the model and in `layers`."""
    for name in [name for name in layers if kind_of(name) in kinds]:
        model.set_submodule(name, layers.pop(name).base)


def init_lora(layers: dict[str, LoraLinear], seed: int) -> None:
    """Draw each A from the uniform distribution of PEFT's default (Kaiming, a = sqrt 5) and set B to 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in layers.values():
            bound = math.sqrt(1 / layer.lora_A.shape[1])
            drawn = torch.empty(layer.lora_A.shape).uniform_(-bound, bound, generator=generator)
            layer.lora_A.copy_(drawn)
            layer.lora_B.zero_()


def copy_with_same_weights(model: nn.Module) -> nn.Module:
    """Return a second tree of modules over the very same weights, so that another LoRA can be put on it."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]})


@contextmanager
def lora_off(layers: dict[str, LoraLinear]) -> Iterator[None]:
    """Within the block, the model is the base alone: the reference policy."""
    for layer in layers.values():
        layer.enabled = False
    try:
        yield
    finally:
        for layer in layers.values():
            layer.enabled = True


def merge_lora(
    model: Any, layers: dict[str, LoraLinear], convert: Callable[[nn.Module], nn.Module] = lambda layer: layer
) -> None:
    """Add each update to its base weight (rounded to that weight's dtype) and take the LoRA layers out.

    convert: what to put in the place of each merged layer, one at a time, so that the memory of a merged weight
    serves the next.
    """
    with torch.no_grad():
        for name, layer in layers.items():
            weight = layer.base.weight
            # Not in place: the weight is a private map of its file, where writing costs a page fault and a copy.
            weight.data = layer.delta().add_(weight).to(weight.dtype).contiguous()  # type: ignore[arg-type]
            model.set_submodule(name, convert(layer.base))
            layer.base = nn.Identity()
