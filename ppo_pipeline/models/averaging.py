"""The mean of a lineage's last policies as one adapter.

The mean is that of the weights, so of LoRA's products, not of its factors:

    (1/k) sum_i s B_i A_i = (s/k) [B_1 ... B_k] [A_1; ...; A_k]

the factors side by side: an adapter of rank k r, exact, as PEFT's add_weighted_adapter makes it with combination_type
"cat". s = alpha / r, so that alpha / (k r) is s / k already; rank-stabilised LoRA needs alpha / sqrt(k).

Means of weights along a run: Izmailov et al. 2018 (arXiv:1803.05407); of policies trained by RL: WARP (Ramé et al.
2024, arXiv:2406.16768).
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import PipelineError
from ..storage.files import atomic_folder, read_json, write_json
from .adapter import WEIGHTS, read_adapter_config
from .four_bit import FILE, quantization_of
from .tensors import read_tensors, write_tensors

EARLIER = "earlier.safetensors"  # in trainer/: the adapters of the rounds before, side by side, oldest first
TOLD = "average.json"


def newest_adapters(policy: Path, trainer: Path, count: int) -> dict[str, Tensor]:
    """Return the factors of a round's adapter and of those before it, `count` in all or as many as there are.

    By their names in the adapter: A (k r, in) and B (out, k r), oldest first. trainer: beside the round's `policy`.
    """
    newest = read_tensors(policy / WEIGHTS)
    older = read_tensors(trainer / EARLIER) if (trainer / EARLIER).is_file() else {}
    if older and older.keys() != newest.keys():
        raise PipelineError(f"{trainer / EARLIER}: not of the layers of {policy}; delete {trainer} and rerun.")
    found = {}
    for name, tensor in newest.items():
        side = 0 if ".lora_A." in name else 1
        both = torch.cat([older[name], tensor], side) if older else tensor
        kept = min(both.shape[side], count * tensor.shape[side])
        found[name] = both.narrow(side, both.shape[side] - kept, kept).contiguous()
    return found


def write_average(folder: Path, policy: Path, trainer: Path, rounds: int) -> None:
    """Write the mean of the last `rounds` policies as an adapter folder, and how many there were.

    rounds = 1: no adapter, since the policy is its own mean.
    """
    count = 1
    with atomic_folder(folder) as partial:
        if rounds > 1:
            config, tensors = read_adapter_config(policy), newest_adapters(policy, trainer, rounds)
            count = next(t.shape[0] for name, t in tensors.items() if ".lora_A." in name) // config["r"]
            write_tensors(tensors, partial / WEIGHTS)
            write_json(partial / "adapter_config.json", mean_config(config, count))
            if quantization := quantization_of(policy):
                write_json(partial / FILE, quantization)
        write_json(partial / TOLD, {"rounds": count})


def mean_config(config: dict[str, Any], count: int) -> dict[str, Any]:
    """Return the adapter_config.json of the mean of `count` adapters that have `config`."""
    alpha = config["lora_alpha"] / math.sqrt(count) if config.get("use_rslora") else config["lora_alpha"]
    return {**config, "r": config["r"] * count, "lora_alpha": alpha}


def averaged(folder: Path) -> bool:
    """Tell whether a round's folder of the average has an adapter."""
    read_json(folder / TOLD)
    return (folder / "adapter_config.json").is_file()
