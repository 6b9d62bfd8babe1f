"""The model behind a reward of type `model`, in the process that runs it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..compute.device import device_and_format
from ..errors import PipelineError, nearest
from ..observe.counter import Counter
from ..observe.progress import result
from ..training.batches import by_token_budget
from .model_files import load_classifier
from .model_inputs import tokenise
from .samples import Samples

if TYPE_CHECKING:
    from .types.model import ModelComponent


@dataclass(frozen=True)
class ClassifyWork:
    """The scoring of samples by a component's model, for a pool (engine/pool.py)."""

    settings: "ModelComponent"
    samples: Samples

    def open(self, machine: Any) -> "Classifier":
        """Load the model, on the component's own device."""
        return Classifier(self.settings, self.samples)


class Classifier:
    """A Worker. facts: the batches, each the indices of samples of similar length."""

    def __init__(self, settings: "ModelComponent", samples: Samples) -> None:
        self.settings = settings
        self.device, dtype = device_and_format(settings.device, settings.dtype, settings.name)
        self.model, tokenizer = load_classifier(settings, self.device, dtype)
        self.label = _label_index(settings, self.model.config)
        self.inputs, cut = tokenise(settings, tokenizer, samples)
        if cut:
            end = "start" if settings.too_long == "cut_start" else "end"
            result(
                f"reward '{settings.name}'",
                f"{len(cut)} of {len(samples)} inputs were cut at the {end} to {settings.max_tokens} tokens, "
                f"the first is sample '{samples.sample_ids[cut[0]]}'",
            )
        self.lengths = np.array([len(item["input_ids"]) for item in self.inputs])
        _check_ids(settings, self.model, self.inputs)
        alone = getattr(self.model.config, "pad_token_id", None) is None
        self.facts = by_token_budget(self.lengths, 1 if alone else settings.batch_tokens)

    @torch.inference_mode()
    def __call__(self, task: NDArray[np.int64], counter: Counter) -> NDArray[np.float32]:
        """Return the reward of each sample of a batch."""
        inputs = _padded([self.inputs[i] for i in task], self.model.config, self.device)
        logits = self.model(**inputs).logits.float()
        if self.settings.output == "probability":
            logits = logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)
        counter.advance(len(task), int(self.lengths[task].sum()))
        found: NDArray[np.float32] = logits[:, self.label].cpu().numpy()
        return found


def _padded(items: list[dict[str, list[int]]], config: Any, device: Any) -> dict[str, Any]:
    """Return the tokenised texts as tensors (B, T), filled up on the right."""
    longest = max(len(item["input_ids"]) for item in items)
    fill = {"input_ids": config.pad_token_id or 0, "attention_mask": 0, "token_type_ids": 0}
    return {
        name: torch.tensor([item[name] + [fill[name]] * (longest - len(item[name])) for item in items], device=device)
        for name in items[0]
    }


def _label_index(settings: "ModelComponent", config: Any) -> int:
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


def _check_ids(settings: "ModelComponent", model: Any, inputs: list[dict[str, list[int]]]) -> None:
    size = model.get_input_embeddings().num_embeddings
    largest = max(max(item["input_ids"]) for item in inputs)
    if largest >= size:
        raise PipelineError(
            f"reward '{settings.name}': model: the tokenizer gives token {largest}, the model knows {size} tokens; "
            "they do not belong together."
        )
