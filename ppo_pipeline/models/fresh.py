"""LoRA for a new policy: on the layers that were asked for, after a trial that it can stand there."""

from typing import Any

from torch import nn

from ..settings.sections import Policy as PolicySettings
from ..settings.supervised_sections import Supervised
from .lora import LoraLinear, NoPlaceForLora, add_lora, init_lora, kind_of, remove_lora
from .peft_names import check_loadable
from .policy import Policy
from .trial import try_lora

ALL = "all-linear"


def fresh_lora(
    model: Any, settings: PolicySettings | Supervised, seed: int, targets: list[str] | str | None = None,
    kind: type[Policy] = Policy,
) -> tuple[dict[str, LoraLinear], list[str]]:  # fmt: skip
    """Put LoRA that changes nothing yet onto the model; return its layers by path, and what is left without, by kind.

    Without are layers that all-linear left out, and experts that are held in one tensor. targets: in the place of the
    settings' own, of a model of which these were tried. kind: what the layers are tried in. Raises NoPlaceForLora
    naming a layer that was asked for by name and on which LoRA would be wrong, without effect, or lost in PEFT.
    """
    s = settings
    layers = add_lora(model, targets or s.target_modules, s.rank, s.alpha, s.dropout, s.use_rslora)
    left_out = [] if targets else _tried(model, layers, s.target_modules == ALL, kind)
    init_lora(layers, seed)
    return layers, left_out + _experts(model)


def _tried(model: Any, layers: dict[str, LoraLinear], take_off: bool, kind: type[Policy]) -> list[str]:
    """Try the layers; with `take_off` those that LoRA cannot stand on lose it, and are returned by kind."""
    left_out: list[str] = []
    while True:
        init_lora(layers, 0)
        try:
            check_loadable(model, layers)
            try_lora(kind(model, layers))
        except NoPlaceForLora as fault:
            if not take_off or set(fault.kinds) == set(map(kind_of, layers)):
                raise
            remove_lora(model, layers, fault.kinds)
            left_out += fault.kinds
        else:
            return left_out


def _experts(model: nn.Module) -> list[str]:
    """Return the kinds of modules that hold all experts of a block in one tensor, which gets no LoRA here."""
    found = (
        kind_of(name)
        for name, module in model.named_modules()
        if "Experts" in type(module).__name__ and any(p.ndim == 3 for p in module.parameters(recurse=False))
    )
    return list(dict.fromkeys(found))
