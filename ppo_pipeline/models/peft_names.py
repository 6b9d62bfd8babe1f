"""What PEFT reads in an adapter folder, so that the layers that it gets are the ones that were trained.

PEFT puts LoRA on every module whose path is in `target_modules` or ends in an entry, whatever its kind. For
architectures whose experts transformers 5 keeps in one tensor it takes the names of MOVED for these experts, wherever
they stand; a layer of that name is written as the parameter that it holds, in `target_parameters`. And keys of
tensors are renamed as those of old checkpoints are. PEFT is not imported here; tests compare with it.
"""

from collections.abc import Iterable
from typing import Any

from torch import nn

from ..errors import PipelineError
from .lora import NoPlaceForLora

# peft.utils.transformers_weight_conversion._MOE_TARGET_MODULE_MAPPING
MOVED = {"mixtral": ("gate", "w1", "w3", "w2"), "qwen2_moe": ("gate", "gate_proj", "up_proj", "down_proj")}
# peft.tuners.tuners_utils._check_lora_target_modules_mamba
STATE_SPACE_TYPES = ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")
STATE_SPACE_NAMES = ("out_proj", "conv1d")


def peft_targets(
    model: Any, targets: list[str] | str, layers: Iterable[str], dropout: float = 0.0
) -> dict[str, list[str]]:
    """Return `target_modules`, and `target_parameters` where needed, that mean `layers` of `model` to PEFT.

    The names that were set in params.yaml stay where they say just that; else the paths of the layers are written.
    layers: paths of the layers with LoRA. Raises PipelineError for a layer that PEFT cannot get by any name.
    """
    paths = set(layers)
    check_loadable(model, paths)
    moved_names = _moved_names(model)
    moved = sorted(path for path in paths if _last(path) in moved_names)
    if moved and dropout:
        raise PipelineError(
            f"params.yaml: policy.dropout: PEFT cannot load LoRA with dropout on '{_last(moved[0])}' of "
            f"{type(model).__name__}; set it to 0, or leave that out of policy.target_modules."
        )
    kept = paths - set(moved)
    names = sorted(paths if isinstance(targets, str) else targets)
    names = [name for name in names if _last(name) not in moved_names]
    modules = _module_paths(model, paths)
    if _read(names, modules) != kept:
        names = sorted(kept)
    parameters = [f"{path}.weight" for path in moved]
    others = sorted((_read(names, modules) - kept) | (_read(moved, modules) - set(moved)))
    if others:
        raise PipelineError(
            f"params.yaml: policy.target_modules: PEFT would load the adapter onto '{others[0]}' too, whose path ends "
            "in that of another layer; take both, or neither."
        )
    return {"target_modules": names} | ({"target_parameters": parameters} if parameters else {})


def _last(path: str) -> str:
    return path.rsplit(".", 1)[-1]


def _read(names: list[str], paths: Iterable[str]) -> set[str]:
    """Return the paths that PEFT takes by these names."""
    ends, known = tuple(f".{name}" for name in names), set(names)
    return {path for path in paths if path in known or path.endswith(ends)}


def _module_paths(model: nn.Module, layers: set[str]) -> list[str]:
    """Return the paths of the model's modules as they are without LoRA."""
    inside = {f"{path}.{child}" for path in layers for child in ("base", "dropout")}
    return [name for name, _ in model.named_modules() if name and name not in inside]


def _moved_names(model: Any) -> tuple[str, ...]:
    """Return the names that PEFT takes for parts of the experts of this architecture."""
    from transformers import conversion_mapping

    kind = _model_type(model)
    table = {**getattr(conversion_mapping, "_MODEL_TO_CONVERSION_PATTERN", {}), "mixtral": "mixtral"}
    return MOVED.get(table.get(kind, ""), ()) if _has_conversion(kind) else ()


def check_loadable(model: Any, paths: Iterable[str]) -> None:
    """Raise NoPlaceForLora for layers that PEFT refuses, or whose tensors it would look for under another name."""
    kind, lost = _model_type(model), set()
    if _has_conversion(kind):
        lost = _renamed(model, set(paths))
    if kind in STATE_SPACE_TYPES:
        lost |= {path for path in paths if _last(path) in STATE_SPACE_NAMES}
    if lost:
        text = f"PEFT cannot load LoRA on '{min(lost)}' of {type(model).__name__}; leave it out."
        raise NoPlaceForLora(text, sorted(lost))


def _renamed(model: Any, paths: set[str]) -> set[str]:
    """Return the layers whose tensors PEFT would put where transformers puts those of an older checkpoint."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    steps = get_model_conversion_mapping(model)
    renamings = [step for step in steps if isinstance(step, WeightRenaming)]
    converters = [step for step in steps if not isinstance(step, WeightRenaming)]
    found = set()
    for path in paths:
        key = f"{path}.lora_A.weight"
        renamed, _ = rename_source_key(key, renamings, [])
        _, converter = rename_source_key(f"{path}.weight", [], converters)
        if not key.endswith(renamed) or converter is not None:  # PEFT undoes it where only a prefix went
            found.add(path)
    return found


def _has_conversion(kind: str) -> bool:
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    return get_checkpoint_conversion_mapping(kind) is not None


def _model_type(model: Any) -> str:
    return getattr(getattr(model, "config", None), "model_type", None) or ""
