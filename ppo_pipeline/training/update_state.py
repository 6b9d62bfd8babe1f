"""The update's state between two microbatches, to and from a snapshot: all that its next one depends on, bit by bit."""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import PipelineError
from ..resume.snapshots import Snapshots
from .optimizer import MOMENTS, step_count, trained_parameters

if TYPE_CHECKING:
    from .ppo import PPO

GPUS = ("cuda", "mps")
COUNTS = ("tokens", "steps", "skipped", "stopped", "grad_norms", "first_ratio")


@dataclass
class Position:
    """Where the update is: how many minibatches of which epoch, and microbatches of the next one, are behind it.

    sums: statistics of those microbatches. ratios: theirs, per token.
    """

    epoch: int = 0
    minibatch: int = 0
    microbatch: int = 0
    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    ratios: list[Tensor] = field(default_factory=list)


def save_state(ppo: "PPO", snapshots: Snapshots) -> Path | None:
    """Make a snapshot: weights, optimizer, gradients so far, loss scale, random state, position and statistics.

    All ranks call it; rank 0 writes, and all are told the folder.
    """
    tensors = _of_parameters(ppo)  # before rank 0 alone can meet a full disk

    def write(folder: Path) -> None:
        p = ppo.position
        if p.ratios:
            tensors["ratios"] = torch.cat(p.ratios)
        tensors["random"] = torch.get_rng_state()
        if ppo.device.type in GPUS:  # LoRA's dropout draws there
            tensors["random_gpu"] = torch.get_device_module(ppo.device).get_rng_state(ppo.device)
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / "tensors.safetensors")
        numbers = {
            "position": [p.epoch, p.minibatch, p.microbatch],
            "step_sums": p.sums,
            "sums": ppo.sums,
            "padding": [ppo.padding.tokens, ppo.padding.places],
            "scaler": ppo.scaler.state_dict(),
            **{name: getattr(ppo, name) for name in COUNTS},
        }
        (folder / "numbers.json").write_text(json.dumps(numbers), encoding="utf-8")

    return ppo.ranks.share(lambda: snapshots.save(write))


def _of_parameters(ppo: "PPO") -> dict[str, Tensor]:
    """Return the whole weights, optimizer's states and gradients, of a sharded policy on rank 0."""
    found = {}
    for name, parameter in trained_parameters(ppo.policy).items():
        found[f"weight.{name}"] = ppo.policy.whole(name, parameter.detach())
        if parameter.grad is not None:
            found[f"grad.{name}"] = ppo.policy.whole(name, parameter.grad)
        for kind, tensor in ppo.optimizer.state.get(parameter, {}).items():
            found[f"optimizer.{kind}.{name}"] = tensor if kind == "step" else ppo.policy.whole(name, tensor)
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def load_state(ppo: "PPO", snapshots: Snapshots) -> bool:
    """Take up the newest snapshot, all ranks the same one; return whether there is one."""

    def read(folder: Path) -> str:
        tensors = load_file(folder / "tensors.safetensors")
        numbers = json.loads((folder / "numbers.json").read_text(encoding="utf-8"))
        shapes = ppo.policy.shapes()
        wanted = {f"weight.{n}": (shapes[n], p.dtype) for n, p in trained_parameters(ppo.policy).items()}
        if {n: (t.shape, t.dtype) for n, t in tensors.items() if n.startswith("weight.")} != wanted:
            raise ValueError("it is of other parameters")
        _take_up(ppo, tensors, numbers)
        epoch, minibatch, microbatch = numbers["position"]
        more = f" and {microbatch} microbatches" if microbatch else ""
        return f"{epoch * ppo.settings.minibatches + minibatch} minibatches{more} done"

    def read_what_rank_0_has() -> None:
        try:
            if folder is not None and ppo.ranks.rank:
                read(folder)
        except (OSError, ValueError, KeyError) as error:
            raise PipelineError(
                f"{folder}: one process has read this snapshot, another cannot ({error}); the project's folder must be "
                "on a file system that all machines share."
            ) from None

    folder = ppo.ranks.share(lambda: snapshots.newest() if snapshots.load(read) else None)
    ppo.ranks.gather(read_what_rank_0_has)
    return folder is not None


def _take_up(ppo: "PPO", tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    for name, parameter in trained_parameters(ppo.policy).items():
        with torch.no_grad():
            parameter.copy_(ppo.policy.part(name, tensors[f"weight.{name}"]))
        grad = tensors.get(f"grad.{name}")
        parameter.grad = None if grad is None else ppo.policy.part(name, grad)
        state = {}
        for kind in ("step", *MOMENTS):
            tensor = tensors.get(f"optimizer.{kind}.{name}")
            if tensor is not None:
                is_step = kind == "step"
                state[kind] = step_count(ppo.optimizer, parameter, tensor) if is_step else ppo.policy.part(name, tensor)
        if state:
            ppo.optimizer.state[parameter] = state
    torch.set_rng_state(tensors["random"])
    if "random_gpu" in tensors:
        torch.get_device_module(ppo.device).set_rng_state(tensors["random_gpu"], ppo.device)
    ppo.position = Position(*numbers["position"])
    ppo.position.sums |= numbers["step_sums"]
    if "ratios" in tensors:
        ppo.position.ratios.append(tensors["ratios"].to(ppo.device))
    ppo.sums = defaultdict(float, numbers["sums"])
    ppo.padding.tokens, ppo.padding.places = numbers["padding"]
    if ppo.scaler.is_enabled():
        ppo.scaler.load_state_dict(numbers["scaler"])
    for name in COUNTS:
        setattr(ppo, name, numbers[name])
