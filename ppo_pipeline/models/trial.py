"""A trial before training: one adapted forward and backward over a few tokens, so that no layer is trained in vain.

A layer that the model bypasses (it reads the weight itself, or has no use for it with text) or that is no linear map
of its weight would otherwise crash later, or be without effect in silence.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import PipelineError
from ..errors.machine_faults import is_machines
from .loading import text_config
from .lora import LoraLinear, NoPlaceForLora, is_conv1d, kind_of
from .policy import Policy, pad

LENGTHS = ((9, 8), (4, 5))  # of prompt and response of the sequences that are tried
ROWS = 4  # compared of a layer's output
TOLERANCE = {torch.float32: 1e-3}  # of a layer's output, relative; other formats: HALF
HALF = 0.03


def try_lora(policy: Policy) -> None:
    """Run the training forward and its backward pass with LoRA on; the layers come out as they were.

    Raises PipelineError naming the layers that LoRA would be without effect on, or wrong.
    """
    layers = policy.layers
    _check_unshared(policy.model, layers)
    called: set[str] = set()
    with _filled(layers), _watched(layers, called):
        _run(policy, "policy.target_modules")
        trained = {n for n, layer in layers.items() if _has_gradient(layer.lora_A) and _has_gradient(layer.lora_B)}
    for fine, why in ((called, "the model has no use for it with text"), (trained, "it gets no gradient")):
        kinds = set(map(kind_of, fine))
        lost = [name for name in layers if kind_of(name) not in kinds]  # of experts, few tokens reach some alone
        if lost:
            raise NoPlaceForLora(
                f"LoRA on '{lost[0]}' of {type(policy.model).__name__} would be without effect: {why}. Leave it out; a "
                "regular expression can tell paths apart.",
                lost,
            )


def try_whole(policy: Policy) -> list[str]:
    """Run the training forward and its backward pass of a model that is trained as a whole; return what stays as it is.

    That are weights without a gradient, for instance of parts that see images. Gradients are dropped one by one.
    """
    found: set[int] = set()

    def drop(parameter: Tensor) -> None:
        if _has_gradient(parameter):
            found.add(id(parameter))
        parameter.grad = None

    named = dict(policy.model.named_parameters())
    before = {name: p.requires_grad for name, p in named.items()}
    policy.model.requires_grad_(True)
    hooks = [p.register_post_accumulate_grad_hook(drop) for p in named.values()]
    try:
        _run(policy, "policy.tuning")
    finally:
        for hook in hooks:
            hook.remove()
        for name, p in named.items():
            p.requires_grad_(before[name])
    return [name for name, p in named.items() if id(p) not in found]


def _run(policy: Policy, setting: str) -> None:
    """Sum the logprobs of a few tokens and go backward; whatever the model raises becomes a PipelineError."""
    tokens = torch.arange(1, 1 + sum(map(sum, LENGTHS))) * 7919 % text_config(policy.model).vocab_size
    parts = list(tokens.split([length for pair in LENGTHS for length in pair]))
    batch = pad(parts[::2], parts[1::2], 0, policy.model.device)
    try:
        policy.score(batch, 1.0).logprobs.sum().backward()
    except Exception as error:
        if isinstance(error, PipelineError) or is_machines(error):
            raise
        _name_what_was_read(policy, error)
        text = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]:.200}"
        raise PipelineError(
            f"params.yaml: {setting}: {type(policy.model).__name__} cannot be trained this way ({text}); train other "
            "layers, or another model."
        ) from None


def _name_what_was_read(policy: Policy, error: Exception) -> None:
    """Raise NoPlaceForLora where the error is that a model takes something of a layer instead of calling it."""
    for path, layer in policy.layers.items():
        if isinstance(error, AttributeError) and error.obj is layer:
            raise NoPlaceForLora(
                f"{type(policy.model).__name__} reads '{error.name}' of '{path}' itself, so that LoRA there would be "
                "without effect; leave it out.",
                [path],
            ) from None


@contextmanager
def _filled(layers: dict[str, LoraLinear]) -> Iterator[None]:
    """Within the block B is random, so that A gets a gradient; then 0 as before, without gradients."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in layers.values():
            layer.lora_B.copy_(torch.empty(layer.lora_B.shape).normal_(std=0.01, generator=generator))
    try:
        yield
    finally:
        for layer in layers.values():
            layer.lora_B.data.zero_()
            layer.lora_A.grad = layer.lora_B.grad = None


@contextmanager
def _watched(layers: dict[str, LoraLinear], called: set[str]) -> Iterator[None]:
    """Within the block note which base layers are called, and compare the first of each kind with its own weight."""
    kinds: set[str] = set()
    hooks = []

    def watch(name: str) -> Any:
        def hook(layer: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            called.add(name)
            if kind_of(name) not in kinds:
                kinds.add(kind_of(name))
                if not _is_linear(layer, arguments, output):
                    raise NoPlaceForLora(
                        f"'{name}' ({type(layer).__name__}) gives something else than its weight times its input, so "
                        "LoRA cannot stand beside it; leave it out.",
                        [name],
                    )

        return hook

    try:
        for name, layer in layers.items():
            hooks.append(layer.base.register_forward_hook(watch(name)))
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _is_linear(layer: Any, arguments: tuple[Any, ...], output: Any) -> bool:
    """Tell whether a layer gave W x + b for its one argument."""
    if len(arguments) != 1 or not isinstance(output, Tensor):
        return False
    x, weight = arguments[0], layer.weight.T if is_conv1d(layer) else layer.weight
    if x.shape[-1] != weight.shape[1] or output.shape != (*x.shape[:-1], weight.shape[0]):
        return False
    bias = None if layer.bias is None else layer.bias.float()
    expected = functional.linear(x.flatten(0, -2)[:ROWS].float(), weight.float(), bias)
    error = torch.linalg.vector_norm(output.flatten(0, -2)[:ROWS].float() - expected)
    limit = TOLERANCE.get(output.dtype, HALF) * torch.linalg.vector_norm(expected)
    return bool(error <= limit) or not torch.isfinite(expected).all()


def _check_unshared(model: nn.Module, layers: dict[str, LoraLinear]) -> None:
    """Raise PipelineError for a layer whose weight another module uses too, which merging would change there too."""
    bases = {id(layer.base): name for name, layer in layers.items()}
    weights = {id(layer.base.weight): name for name, layer in layers.items()}
    for path, module in model.named_modules():
        own = [] if id(module) in bases else [weights.get(id(p)) for p in module.parameters(recurse=False)]
        inside = () if isinstance(module, LoraLinear) else module.children()
        for name in [*own, *(bases.get(id(child)) for child in inside)]:
            if name is not None:
                raise NoPlaceForLora(
                    f"the weight of '{name}' is used by '{path}' too, where LoRA would not be; leave it out.", [name]
                )


def _has_gradient(parameter: Tensor) -> bool:
    return parameter.grad is not None and bool((parameter.grad != 0).any())
