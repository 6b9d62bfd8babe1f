"""Rewards from a sequence classification model."""

from typing import Any, Literal

import numpy as np
from pydantic import Field

from ...errors import PipelineError, nearest
from ...observe.progress import progress, result
from ...resume.kept_batches import KeptBatches
from ...resume.snapshots import Snapshots
from ...settings.sections import Count
from ..component import Component
from ..samples import Samples


class ModelComponent(Component):
    """A reward computed by a sequence classification model; the model's own Python code never runs."""

    type: Literal["model"]
    model: str = Field(description="Folder of a transformers model, or hub id owner/name", min_length=1)
    revision: str | None = Field(
        description="Commit or tag of a hub model; null for its default branch, which may change. null for a folder"
    )
    pickled_weights: bool = Field(
        description="Where a model has no safetensors file, read pytorch_model.bin with torch's weights-only "
        "unpickler, which makes tensors and no other objects (torch >= 2.10: CVE-2026-24747). false: an error"
    )
    input: Literal["pair", "concat", "chat"] = Field(
        description="pair: the messages as plain text, and the response, as two segments; concat: the response after "
        "the prompt as the policy saw it; chat: by the reward model's own chat template"
    )
    label: str | int | None = Field(
        description="Label whose logit is the reward, by name or index; null where the model has a single one"
    )
    output: Literal["logit", "probability"] = Field(
        description="logit: the model's number; probability: its sigmoid, or the label's share of the softmax"
    )
    max_tokens: Count = Field(description="Longest input, special tokens included")
    too_long: Literal["error", "cut_start", "cut_end"] = Field(
        description="A longer input: an error; cut at the start (pair: of the prompt), or at the end (pair: of the "
        "response). How many were cut is printed"
    )
    batch_tokens: Count = Field(description="Tokens of a batch of similar lengths, padding included")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(description="auto takes cuda, then mps, then cpu")
    dtype: Literal["auto", "bf16", "fp32"] = Field(
        description="Dtype of the model; auto takes bf16 where the machine computes it fast"
    )

    def score(self, samples: Samples, snapshots: Snapshots | None = None) -> list[float]:
        """Return the model's logit (or probability) for each sample, computed in batches of similar length.

        Padding is on the right and masked. A model whose configuration names no padding token is asked for one sample
        at a time, as it would take the padding for text. snapshots: where finished batches are kept.
        Raises PipelineError where the model cannot be loaded, its labels do not fit `label`, or a sample's input is
        longer than `max_tokens` and may not be cut.
        """
        import torch

        from ...compute.device import device_and_format
        from ...training.batches import by_token_budget
        from ..model_files import load_classifier
        from ..model_inputs import tokenise

        if not len(samples):
            return []
        device, dtype = device_and_format(self.device, self.dtype, self.name)
        model, tokenizer = load_classifier(self, device, dtype)
        label = _label_index(self, model.config)
        inputs, cut = tokenise(self, tokenizer, samples)
        if cut:
            end = "start" if self.too_long == "cut_start" else "end"
            result(
                f"reward '{self.name}'",
                f"{len(cut)} of {len(samples)} inputs were cut at the {end} to {self.max_tokens} tokens, "
                f"the first is sample '{samples.sample_ids[cut[0]]}'",
            )
        lengths = np.array([len(item["input_ids"]) for item in inputs])
        _check_ids(self, model, inputs)
        alone = getattr(model.config, "pad_token_id", None) is None
        batches = by_token_budget(lengths, 1 if alone else self.batch_tokens)
        rewards = np.zeros(len(samples))
        kept = KeptBatches(snapshots, {"rewards": rewards}, batches)
        with kept, progress(len(samples), f"reward {self.name}") as counter, torch.inference_mode():
            for rows in kept.remaining():
                logits = model(**_padded([inputs[i] for i in rows], model.config, device)).logits.float()
                if self.output == "probability":
                    logits = logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)
                rewards[rows] = logits[:, label].cpu().numpy()
                counter.advance(len(rows), int(lengths[rows].sum()))
        return [float(reward) for reward in rewards]

    def loaded_model(self) -> str:
        """Return the folder or hub id."""
        return self.model

    def reads_policy_view(self) -> bool:
        """Tell whether the prompt is part of the input as the policy saw it."""
        return self.input == "concat"


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
