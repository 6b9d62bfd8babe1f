"""Rewards from a sequence classification model."""

from typing import Any

from ..errors import PipelineError, nearest
from ..observe.progress import progress, result
from ..resume.kept_batches import KeptBatches
from ..resume.snapshots import Snapshots
from ..settings.reward_sections import ModelComponent
from .samples import Samples


def model_rewards(settings: ModelComponent, samples: Samples, snapshots: Snapshots | None = None) -> list[float]:
    """Return the model's logit (or probability) for each sample, computed in batches of similar length.

    Padding is on the right and masked. A model whose configuration names no padding token is asked for one sample
    at a time, as it would take the padding for text. snapshots: where finished batches are kept.
    Raises PipelineError where the model cannot be loaded, its labels do not fit `label`, or a sample's input is
    longer than `max_tokens` and may not be cut.
    """
    import numpy as np
    import torch

    from ..compute.device import device_and_format
    from ..training.batches import by_token_budget
    from .model_files import load_classifier
    from .model_inputs import tokenise

    if not len(samples):
        return []
    device, dtype = device_and_format(settings.device, settings.dtype, settings.name)
    model, tokenizer = load_classifier(settings, device, dtype)
    label = _label_index(settings, model.config)
    inputs, cut = tokenise(settings, tokenizer, samples)
    if cut:
        end = "start" if settings.too_long == "cut_start" else "end"
        result(
            f"reward '{settings.name}'",
            f"{len(cut)} of {len(samples)} inputs were cut at the {end} to {settings.max_tokens} tokens, "
            f"the first is sample '{samples.sample_ids[cut[0]]}'",
        )
    lengths = np.array([len(item["input_ids"]) for item in inputs])
    _check_ids(settings, model, inputs)
    alone = getattr(model.config, "pad_token_id", None) is None
    batches = by_token_budget(lengths, 1 if alone else settings.batch_tokens)
    rewards = np.zeros(len(samples))
    kept = KeptBatches(snapshots, {"rewards": rewards}, batches)
    with kept, progress(len(samples), f"reward {settings.name}") as counter, torch.inference_mode():
        for rows in kept.remaining():
            logits = model(**_padded([inputs[i] for i in rows], model.config, device)).logits.float()
            if settings.output == "probability":
                logits = logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)
            rewards[rows] = logits[:, label].cpu().numpy()
            counter.advance(len(rows), int(lengths[rows].sum()))
    return [float(reward) for reward in rewards]


def _padded(items: list[dict[str, list[int]]], config: Any, device: Any) -> dict[str, Any]:
    """Return the tokenised texts as tensors (B, T), filled up on the right."""
    import torch

    longest = max(len(item["input_ids"]) for item in items)
    fill = {"input_ids": config.pad_token_id or 0, "attention_mask": 0, "token_type_ids": 0}
    return {
        name: torch.tensor([item[name] + [fill[name]] * (longest - len(item[name])) for item in items], device=device)
        for name in items[0]
    }


def _label_index(settings: ModelComponent, config: Any) -> int:
    """Return which logit is the reward."""
    where = f"reward '{settings.name}': label"
    names = {int(i): str(name) for i, name in config.id2label.items()}
    there = ", ".join(f"{i} {name!r}" for i, name in sorted(names.items()))
    if settings.label is None:
        if config.num_labels != 1:
            raise PipelineError(f"{where}: the model has {config.num_labels} labels, name one: {there}.")
        return 0
    found = [i for i, name in names.items() if settings.label in (i, name)]
    if not found:
        hint = nearest(settings.label, list(names.values())) if isinstance(settings.label, str) else ""
        raise PipelineError(f"{where}: the model has no label {settings.label!r}.{hint} It has: {there}.")
    return found[0]


def _check_ids(settings: ModelComponent, model: Any, inputs: list[dict[str, list[int]]]) -> None:
    size = model.get_input_embeddings().num_embeddings
    largest = max(max(item["input_ids"]) for item in inputs)
    if largest >= size:
        raise PipelineError(
            f"reward '{settings.name}': model: the tokenizer gives token {largest}, the model knows {size} tokens; "
            "they do not belong together."
        )
