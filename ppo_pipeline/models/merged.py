"""A trained model written as a plain transformers folder like its base's: LoRA merged, the base's own dtype."""

from pathlib import Path
from typing import Any

import torch

from ..storage.files import atomic_folder, write_json
from .checkpoint import copy_model_files
from .loading import load_model
from .lora import LoraLinear, add_lora, merge_lora
from .policy import Policy


def write_merged(base: Path, policy: Policy, source: dict[str, Any], folder: Path) -> None:
    """Write the model at `base` with what `policy` has learnt beside it to `folder`, whole or not at all.

    The base is read anew, so that its weights are rounded once, to the dtype that its files have. source: what
    source.json says of the model's origin. Other files, the tokenizer's among them, are the base's.
    """
    model = load_model(base, torch.device("cpu"), "auto")
    with torch.no_grad():
        if policy.layers:
            merge_trained(model, policy.layers)
        else:
            trained = policy.policy_parameters()
            for name, parameter in model.named_parameters():
                parameter.copy_(trained[name])
    with atomic_folder(folder) as partial:
        copy_model_files(base, partial, weights=False)
        model.save_pretrained(partial)
        write_json(partial / "source.json", source)


@torch.no_grad()
def merge_trained(model: Any, trained: dict[str, LoraLinear]) -> None:
    """Merge LoRA that was trained on another copy of the model, layers by path, into this one's weights."""
    rank = len(next(iter(trained.values())).lora_A)
    layers = add_lora(model, list(trained), rank, 1.0, 0.0)
    for name, layer in layers.items():
        layer.scaling = trained[name].scaling
        layer.lora_A.copy_(trained[name].lora_A)
        layer.lora_B.copy_(trained[name].lora_B)
    merge_lora(model, layers)
