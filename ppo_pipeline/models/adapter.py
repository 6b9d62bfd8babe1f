"""A round's policy as a PEFT adapter folder: adapter_model.safetensors and adapter_config.json.

It loads in PEFT, transformers and vLLM as it is.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import PipelineError
from ..settings.sections import Policy as PolicySettings
from ..storage.files import atomic_folder, read_json, write_json
from .four_bit import FILE
from .lora import LoraLinear, add_lora, is_conv1d, merge_lora
from .peft_names import peft_targets
from .policy import Policy
from .tensors import read_tensors, write_tensors

PREFIX = "base_model.model."
WEIGHTS = "adapter_model.safetensors"
USED: dict[str, Any] = {"r": int, "lora_alpha": int | float, "lora_dropout": int | float, "target_modules": list | str}
# What PEFT's LoRA has besides, and the layers here have not.
UNKNOWN = ("rank_pattern", "alpha_pattern", "use_dora", "bias", "lora_bias", "layers_to_transform", "modules_to_save")


def adapter_config(
    settings: PolicySettings, base_name: str, layers: dict[str, LoraLinear], model: nn.Module
) -> dict[str, Any]:
    """Return PEFT's adapter_config.json for these layers of `model`.

    Raises PipelineError where PEFT would not put LoRA on the same layers.
    """
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        **peft_targets(model, settings.target_modules, layers, settings.dropout),
        "bias": "none",
        "use_rslora": settings.use_rslora,
        "fan_in_fan_out": any(is_conv1d(layer.base) for layer in layers.values()),
        "init_lora_weights": True,
        "inference_mode": True,
    }


def save_policy(
    policy: Policy, config: dict[str, Any], folder: Path, quantization: dict[str, Any] | None = None
) -> None:
    """Write the adapter folder, whole or not at all; quantization: of the base beneath it, as four_bit.py has it."""
    tensors = {}
    for name, layer in policy.layers.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = layer.lora_A.detach().cpu().contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = layer.lora_B.detach().cpu().contiguous()
    with atomic_folder(folder) as partial:
        write_tensors(tensors, partial / WEIGHTS)
        write_json(partial / "adapter_config.json", config)
        if quantization:
            write_json(partial / FILE, quantization)


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Return adapter_config.json of a policy folder, with what `lora_arguments` takes from it checked."""
    path = folder / "adapter_config.json"
    config = read_json(path)
    for name, kind in USED.items():
        value = config.get(name)
        if isinstance(value, bool) or not isinstance(value, kind) or (name == "r" and value < 1):
            raise PipelineError(f"{path}: damaged ({name}: {value!r}); delete it and rerun.")
    targets = config["target_modules"]
    if isinstance(targets, list) and not all(isinstance(target, str) for target in targets):
        raise PipelineError(f"{path}: damaged (target_modules: {targets!r}); delete it and rerun.")
    parameters = config.get("target_parameters") or []
    if not isinstance(parameters, list) or (parameters and isinstance(targets, str)):
        raise PipelineError(f"{path}: damaged (target_parameters: {parameters!r}); delete it and rerun.")
    if not all(isinstance(name, str) and name.endswith(".weight") for name in parameters):
        raise PipelineError(
            f"{path}: target_parameters: {parameters!r}; LoRA here is on linear layers alone, by their '.weight'."
        )
    for name in UNKNOWN:
        if config.get(name) not in (None, False, "none", {}, []):
            raise PipelineError(f"{path}: {name}: {config[name]!r}; LoRA here is without: it would act in PEFT alone.")
    return config


def lora_arguments(config: dict[str, Any]) -> tuple[list[str] | str, int, float, float, bool]:
    """Return the arguments of `add_lora` after the model, from adapter_config.json."""
    targets, scale = config["target_modules"], config.get("use_rslora", False)
    more = [name.removesuffix(".weight") for name in config.get("target_parameters") or []]
    if more:
        targets = [*targets, *more]
    return targets, config["r"], config["lora_alpha"], config["lora_dropout"], scale


def attach_policy(model: Any, folder: Path) -> dict[str, LoraLinear]:
    """Put the adapter at `folder` onto the base `model`; return its layers by path."""
    config = read_adapter_config(folder)
    layers = add_lora(model, *lora_arguments(config))
    tensors = read_tensors(folder / WEIGHTS)
    with torch.no_grad():
        for name, layer in layers.items():
            for part in ("lora_A", "lora_B"):
                key, target = f"{PREFIX}{name}.{part}.weight", getattr(layer, part)
                if key not in tensors or tensors[key].shape != target.shape:
                    raise PipelineError(
                        f"{folder}: '{key}' is missing or of another shape; the adapter is of another base model."
                    )
                target.copy_(tensors.pop(key))
    if tensors:
        raise PipelineError(f"{folder}: unexpected tensor '{next(iter(tensors))}'.")
    return layers


def attach_merged(model: Any, folder: Path, convert: Callable[[nn.Module], nn.Module] = lambda layer: layer) -> None:
    """Merge the adapter at `folder` into the base `model`, which is then the policy; convert: as in merge_lora."""
    merge_lora(model, attach_policy(model, folder), convert)
