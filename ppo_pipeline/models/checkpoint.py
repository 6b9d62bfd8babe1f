"""Checkpoints of a round: policy/, a PEFT adapter folder, and trainer/, what training goes on from.

policy/adapter_model.safetensors and adapter_config.json load in PEFT, transformers and vLLM as they are.
trainer/ holds value_head.safetensors, optimizer.safetensors (Adam's moments by parameter name) and
state.json. Nothing is pickled.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import PipelineError
from ..files import whole_folder, write_json
from ..sections import Policy as PolicySettings
from .lora import LoraLinear, add_lora, is_conv1d, merge_lora
from .policy import Policy
from .value_head import ValueHead

PREFIX = "base_model.model."


@dataclass
class TrainerState:
    """Numbers that training goes on from.

    optimizer_step: Adam steps made so far. Moments are tensors by parameter name, in `moments`.
    """

    optimizer_step: int = 0
    moments: dict[str, Tensor] = field(default_factory=dict)


def adapter_config(settings: PolicySettings, base_name: str, layers: dict[str, LoraLinear]) -> dict[str, Any]:
    """Return PEFT's adapter_config.json for these layers."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": sorted(settings.target_modules),
        "bias": "none",
        "use_rslora": False,
        "fan_in_fan_out": any(is_conv1d(layer.base) for layer in layers.values()),
        "init_lora_weights": True,
        "inference_mode": True,
    }


def save_policy(policy: Policy, config: dict[str, Any], folder: Path) -> None:
    """Write the adapter folder, whole or not at all."""
    tensors = {}
    for name, layer in policy.layers.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = layer.lora_A.detach().cpu().contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = layer.lora_B.detach().cpu().contiguous()
    with whole_folder(folder) as partial:
        save_file(tensors, partial / "adapter_model.safetensors", metadata={"format": "pt"})
        write_json(partial / "adapter_config.json", config)


def save_trainer(policy: Policy, state: TrainerState, folder: Path) -> None:
    """Write value head, optimizer moments and counters, whole or not at all."""
    numbers = {k: v for k, v in asdict(state).items() if k != "moments"}
    with whole_folder(folder) as partial:
        save_file(
            {n: p.detach().cpu().contiguous() for n, p in policy.value_parameters().items()},
            partial / "value_head.safetensors",
        )
        save_file({n: t.cpu().contiguous() for n, t in state.moments.items()}, partial / "optimizer.safetensors")
        write_json(partial / "state.json", numbers)


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Return adapter_config.json of a policy folder."""
    try:
        config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PipelineError(f"{folder}: no adapter_config.json; `dvc repro` or `dvc pull` brings it.") from None
    except json.JSONDecodeError as error:
        raise PipelineError(f"{folder}/adapter_config.json: not valid JSON: {error}") from None
    return config


def attach_policy(model: Any, folder: Path) -> dict[str, LoraLinear]:
    """Put the adapter at `folder` onto the base `model`; return its layers by path."""
    config = read_adapter_config(folder)
    layers = add_lora(model, config["target_modules"], config["r"], config["lora_alpha"], config["lora_dropout"])
    tensors = read_tensors(folder / "adapter_model.safetensors")
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


def load_policy(model: Any, folder: Path, trainer: Path) -> tuple[Policy, TrainerState]:
    """Put a round's checkpoint onto the base `model`: adapter, value head, trainer state."""
    layers = attach_policy(model, folder)
    head = ValueHead(model.config.hidden_size).to(model.device)
    policy = Policy(model, layers, head)
    tensors = read_tensors(trainer / "value_head.safetensors")
    with torch.no_grad():
        for name, parameter in policy.value_parameters().items():
            parameter.copy_(tensors[name])
    numbers = json.loads((trainer / "state.json").read_text(encoding="utf-8"))
    moments = read_tensors(trainer / "optimizer.safetensors")
    return policy, TrainerState(**numbers, moments=moments)


def attach_merged(model: Any, folder: Path) -> None:
    """Merge the adapter at `folder` into the base `model`, which then is the policy itself."""
    merge_lora(model, attach_policy(model, folder))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, with a clear error for one that is absent or damaged."""
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file; `dvc repro` or `dvc pull` brings it.") from None
    except (SafetensorError, OSError) as error:
        raise PipelineError(f"{path}: damaged ({error}); delete it and rerun.") from None
    return tensors
