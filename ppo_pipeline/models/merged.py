"""A trained model written as a plain transformers folder like its base's: LoRA merged, the base's own dtype."""

from pathlib import Path
from typing import Any

import torch

from ..settings.supervised_sections import Supervised
from ..storage.files import atomic_folder, write_json
from .checkpoint import copy_model_files
from .loading import load_model
from .lora import add_lora, merge_lora
from .policy import Policy


def write_merged(base: Path, policy: Policy, settings: Supervised, source: dict[str, Any], folder: Path) -> None:
    """Write the model at `base` with what `policy` has learnt beside it to `folder`, whole or not at all.

    The base is read anew, so that its weights are rounded once, to the dtype that its files have. source: what
    source.json says of the model's origin. Other files, the tokenizer's among them, are the base's.
    """
    model = load_model(base, torch.device("cpu"), "auto")
    with torch.no_grad():
        if policy.layers:
            layers = add_lora(model, list(policy.layers), settings.rank, settings.alpha, 0.0, settings.use_rslora)
            for name, layer in layers.items():
                layer.lora_A.copy_(policy.layers[name].lora_A)
                layer.lora_B.copy_(policy.layers[name].lora_B)
            merge_lora(model, layers)
        else:
            trained = policy.policy_parameters()
            for name, parameter in model.named_parameters():
                parameter.copy_(trained[name])
    with atomic_folder(folder) as partial:
        copy_model_files(base, partial, weights=False)
        model.save_pretrained(partial)
        write_json(partial / "source.json", source)
