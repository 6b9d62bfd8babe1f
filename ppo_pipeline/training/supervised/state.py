"""The state of supervised training between two microbatches, to and from a snapshot."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from ...resume.snapshots import Snapshots
from ..optimizer import step_count

if TYPE_CHECKING:
    from .loop import SupervisedLoop

STATES = ("step", "exp_avg", "exp_avg_sq", "low")  # of the optimizer


def save_state(loop: "SupervisedLoop", snapshots: Snapshots) -> None:
    """Make a snapshot: weights, optimizer, gradients so far, loss scale, position and curve.

    No random state: each microbatch has a seed of its own.
    """

    def write(folder: Path) -> None:
        tensors = {}
        for name, parameter in loop.parameters.items():
            tensors[f"weight.{name}"] = parameter.detach()
            if parameter.grad is not None:
                tensors[f"grad.{name}"] = parameter.grad
            for kind, tensor in loop.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{kind}.{name}"] = tensor
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / "tensors.safetensors")
        p = loop.position
        numbers = {
            "position": [p.step, p.microbatch], "sums": p.sums, "scaler": loop.scaler.state_dict(), "curve": loop.curve,
        }  # fmt: skip
        (folder / "numbers.json").write_text(json.dumps(numbers), encoding="utf-8")

    snapshots.save(write)


def load_state(loop: "SupervisedLoop", snapshots: Snapshots) -> bool:
    """Take up the newest snapshot; return whether there is one."""

    def read(folder: Path) -> str:
        tensors = load_file(folder / "tensors.safetensors")
        numbers = json.loads((folder / "numbers.json").read_text(encoding="utf-8"))
        wanted = {f"weight.{name}": (p.shape, p.dtype) for name, p in loop.parameters.items()}
        if {n: (t.shape, t.dtype) for n, t in tensors.items() if n.startswith("weight.")} != wanted:
            raise ValueError("it is of other parameters")
        for name, parameter in loop.parameters.items():
            with torch.no_grad():
                parameter.copy_(tensors[f"weight.{name}"])
            grad = tensors.get(f"grad.{name}")
            parameter.grad = None if grad is None else grad.to(loop.device)
            found = {kind: tensors.get(f"optimizer.{kind}.{name}") for kind in STATES}
            state = {
                kind: step_count(loop.optimizer, parameter, tensor) if kind == "step" else tensor.to(loop.device)
                for kind, tensor in found.items()
                if tensor is not None
            }
            if state:
                loop.optimizer.state[parameter] = state
        if loop.scaler.is_enabled():
            loop.scaler.load_state_dict(numbers["scaler"])
        position = loop.position
        position.step, position.microbatch = numbers["position"]
        position.sums |= numbers["sums"]
        loop.curve = numbers["curve"]
        more = f" and {position.microbatch} microbatches" if position.microbatch else ""
        return f"{position.step} of {loop.steps} steps{more} done"

    return snapshots.load(read)
