"""Checkpoints of a round: policy/ and trainer/, which hold all that training goes on from.

policy/ is a PEFT adapter folder; where the whole model is trained, a plain transformers folder. trainer/ holds
value_head.safetensors, critic.safetensors (a separate critic's LoRA or backbone), optimizer.safetensors (Adam's
moments by parameter name) and state.json; with update.average_rounds, earlier.safetensors too (averaging.py). Nothing
is pickled.
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import PipelineError
from ..storage.files import atomic_folder, read_json, write_json
from ..tables.controllers import Controllers, record_of
from .adapter import attach_merged, attach_policy, lora_arguments, read_adapter_config, save_policy
from .averaging import EARLIER
from .four_bit import load_base, quantization_of, unpack_linears
from .loading import backbone_of, hidden_width, load_model
from .lora import add_lora, copy_with_same_weights
from .policy import Policy, SeparateCritic
from .prepacked import can_prepack, pack
from .tensors import read_tensors, write_tensors
from .value_head import ValueHead

HEAD, CRITIC = "value_head.", "critic."
CRITICS = ("shared", "separate", "none")


@dataclass
class TrainerState:
    """Numbers that training goes on from.

    optimizer_step: Adam steps made so far. value_step: those in which the critic was trained. loss_scale:
    of fp16, None otherwise; loss_scale_streak: steps since it last changed. moments: tensors by parameter name.
    """

    optimizer_step: int = 0
    value_step: int = 0
    loss_scale: float | None = None
    loss_scale_streak: int = 0
    controllers: Controllers = field(default_factory=Controllers)
    moments: dict[str, Tensor] = field(default_factory=dict)


def load_merged(base: Path, folder: Path, device: torch.device, dtype: torch.dtype, packed: bool = False) -> Any:
    """Return a round's policy as one plain model; `packed` if it is to be decoded with, for acceleration.py.

    Over a base in 4 bits it is that base, its numbers in `dtype`, with LoRA added.
    """

    def merge(model: Any, adapter: Path) -> None:
        unpack_linears(model)
        attach_merged(model, adapter, *([pack] if packed and can_prepack(model) else []))

    return load_unmerged(base, folder, device, dtype, merge)


def load_unmerged(
    base: Path, folder: Path, device: torch.device, dtype: torch.dtype, attach: Callable[..., Any] = attach_policy
) -> Any:
    """Return a round's policy as a model with its LoRA layers beside the base's, as it is trained.

    attach(model, folder): what puts the adapter onto the base model.
    """
    if (folder / "config.json").is_file():
        return load_model(folder, device, dtype)
    read_adapter_config(folder)  # a wrong folder is told before the base is loaded
    model = load_base(base, folder, device, dtype)
    attach(model, folder)
    return model


def load_checkpoint(
    base: Path, folder: Path, trainer: Path, device: torch.device, dtype: torch.dtype, moments: bool = True
) -> tuple[Policy, TrainerState]:
    """Return a round's policy, ready to be trained, with its critic and what training goes on from.

    moments: False leaves out the optimizer's, which only an update needs and which are most of a whole model's bytes.
    """
    if not (folder / "config.json").is_file():
        read_adapter_config(folder)
        return load_policy(load_base(base, folder, device, dtype), folder, trainer, moments)
    state, critic = read_trainer(trainer, moments)
    model = load_model(folder, device, dtype).requires_grad_(True)
    separate = None
    if critic == "separate":
        separate = SeparateCritic(load_model(base, device, dtype), {})
        backbone_of(separate.model).requires_grad_(True)
    return _with_values(Policy(model, {}, _head(model, critic), separate), trainer), state


def load_policy(model: Any, folder: Path, trainer: Path, moments: bool = True) -> tuple[Policy, TrainerState]:
    """Put a round's adapter and critic onto the base `model`; return them with the trainer's state."""
    state, critic = read_trainer(trainer, moments)
    separate = None
    if critic == "separate":
        twin = copy_with_same_weights(model)
        separate = SeparateCritic(twin, add_lora(twin, *lora_arguments(read_adapter_config(folder))))
    layers = attach_policy(model, folder)
    return _with_values(Policy(model, layers, _head(model, critic), separate), trainer), state


def _head(model: Any, critic: str) -> ValueHead | None:
    return None if critic == "none" else ValueHead(hidden_width(model)).to(model.device)


def _with_values(policy: Policy, trainer: Path) -> Policy:
    """Read the critic's parameters into `policy`."""
    parameters = policy.value_parameters()
    tensors = read_tensors(trainer / "value_head.safetensors") if parameters else {}
    if policy.separate is not None:
        tensors |= read_tensors(trainer / "critic.safetensors")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if name not in tensors or tensors[name].shape != parameter.shape:
                raise PipelineError(f"{trainer}: '{name}' is missing or of another shape; it is of another model.")
            parameter.copy_(tensors[name])
    return policy


def read_trainer(trainer: Path, moments: bool = True) -> tuple[TrainerState, str]:
    """Return the state in a trainer folder, and which critic is beside it: shared, separate or none."""
    path = trainer / "state.json"
    controllers = Controllers.read(path)
    tensors = read_tensors(trainer / "optimizer.safetensors") if moments else {}
    numbers = read_json(path)
    critic = numbers.pop("critic", None)
    if critic not in CRITICS:
        raise PipelineError(f"{path}: damaged (critic: {critic!r}); delete it and rerun.")
    state = record_of(TrainerState, {k: v for k, v in numbers.items() if k != "controllers"}, path)
    return replace(state, controllers=controllers, moments=tensors), critic


def save_trainer(policy: Policy, state: TrainerState, folder: Path, earlier: dict[str, Tensor] | None = None) -> None:
    """Write value head, critic, optimizer moments, earlier rounds' adapters and counters, whole or not at all."""
    values = policy.value_parameters()
    numbers = asdict(replace(state, moments={}))  # asdict copies all that it finds, whole tensors too
    del numbers["moments"]
    with atomic_folder(folder) as partial:
        for start, file in ((HEAD, "value_head.safetensors"), (CRITIC, "critic.safetensors")):
            part = {n: p for n, p in values.items() if n.startswith(start)}
            if part:
                write_tensors(_plain(part), partial / file)
        write_tensors(_plain(state.moments), partial / "optimizer.safetensors")
        if earlier:
            write_tensors(earlier, partial / EARLIER)
        write_json(partial / "state.json", {"critic": policy.critic, **numbers})


def save_checkpoint(
    policy: Policy, state: TrainerState, parent: Path, folder: Path, trainer: Path, *, same_policy: bool = False,
    earlier: dict[str, Tensor] | None = None,
) -> None:  # fmt: skip
    """Write a round's policy/ and trainer/; what training does not change comes from the `parent`'s policy folder.

    same_policy: that is all of it, byte by byte. earlier: adapters of the rounds before, as averaging.py has them.
    """
    if same_policy:
        with atomic_folder(folder) as partial:
            copy_model_files(parent, partial, weights=True)
    elif policy.layers:
        save_policy(policy, read_adapter_config(parent), folder, quantization_of(parent))
    else:
        with atomic_folder(folder) as partial:
            copy_model_files(parent, partial, weights=False)
            policy.model.save_pretrained(partial)
    save_trainer(policy, state, trainer, earlier)


def copy_model_files(source: Path, target: Path, weights: bool) -> None:
    """Copy a transformers folder's files: tokenizer, configs, source.json, and with `weights` those too."""
    for path in sorted(source.iterdir()):
        if path.is_file() and (weights or not path.name.endswith((".safetensors", ".safetensors.index.json"))):
            shutil.copyfile(path, target / path.name)


def _plain(tensors: dict[str, Tensor] | dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
