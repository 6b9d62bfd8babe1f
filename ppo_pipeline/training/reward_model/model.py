"""A reward model as it is trained: a backbone with LoRA, or all of its weights; and a head, one number of a text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...errors import PipelineError
from ...models.loading import backbone_of, readable, rows_of, text_config
from ...models.lora import NoPlaceForLora
from ...models.policy import Policy, Scores, Sequences, hidden_states, lora_parameters
from ...models.reach import borders
from ...models.trust import check_folder
from ...models.value_head import ValueHead
from ..batches import generator

HEAD = "score"  # in transformers' classes of decoders


@dataclass
class RewardPolicy(Policy):
    """A Policy whose value head is the head of a sequence classification model: r = w' h at the text's last token.

    model: an AutoModelForSequenceClassification. Its own head stays as it is meanwhile, and so does the bias, of which
    no difference of rewards depends.
    """

    def states(self, batch: Sequences) -> Tensor:
        """Return the last hidden state of each sequence's last token (B, H) in fp32."""
        last = batch.starts + batch.prompt_lengths + batch.response_lengths - 1
        return hidden_states(self.model, batch)[last.to(batch.ids.device)].float()

    def rewards(self, batch: Sequences) -> Tensor:
        """Return the reward of each sequence (B,) in fp32."""
        assert self.value_head is not None
        rewards: Tensor = self.value_head(self.states(batch))
        return rewards

    def score(self, batch: Sequences, temperature: float, with_values: bool = True) -> Scores:
        """Return rewards in the place of logprobs, for the trial of LoRA (models/trial.py).

        Raises NoPlaceForLora where the head has LoRA: it is trained whole.
        """
        if HEAD in self.layers:
            raise NoPlaceForLora(f"'{HEAD}' is the reward's head, which is trained whole; leave it out.", [HEAD])
        hidden = self.states(batch)
        some = torch.arange(hidden.shape[1], device=hidden.device).cos()  # a norm may fix the sum, or the squares'
        return Scores(hidden @ some, hidden, None, None)

    def trained(self) -> dict[str, nn.Parameter]:
        """Return what is trained by name: A and B of each LoRA layer, or all weights of the backbone; and the head."""
        assert self.value_head is not None
        backbone = lora_parameters(self.layers) or dict(backbone_of(self.model).named_parameters())
        return {**backbone, HEAD: self.value_head.linear.weight}


def check_model_folder(folder: Path, where: str) -> None:
    """Raise PipelineError where no model lies in `folder`, or one that has transformers load more than that."""
    if not (folder / "config.json").is_file():
        several = " It has models 1, 2, ...: name one of them." if (folder / "1").is_dir() else ""
        raise PipelineError(f"{where}: '{folder}' has no config.json: no model there.{several}")
    check_folder(folder, where)


def load_classifier(
    folder: Path, device: torch.device, dtype: torch.dtype | Literal["auto"], where: str
) -> tuple[Any, bool]:
    """Return the model at `folder` for sequence classification with one label, frozen; and whether its head is its own.

    A language model has none yet: its head is 0. where: the setting, for errors. Raises PipelineError for a model that
    cannot be read, or does not give w' h + b at the last token.
    """
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    check_model_folder(folder, where)
    logging.disable_progress_bar()
    loud = logging.get_verbosity()
    logging.set_verbosity_error()  # else a report that a language model has no such head
    with readable(f"{where}: '{folder}' cannot be loaded for sequence classification with one label"):
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=1, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False,
            output_loading_info=True,
        )  # fmt: skip
    logging.set_verbosity(loud)
    absent = sorted(set(info["missing_keys"]) - {f"{HEAD}.weight"})
    if absent:
        raise PipelineError(f"{where}: '{folder}' has no weights for {', '.join(absent[:3])}: no trained model.")
    model.config._name_or_path = ""  # else a path, which differs from machine to machine
    model.requires_grad_(False).to(device).eval()
    _check_head(model, where)
    own = not info["missing_keys"]
    if not own:
        getattr(model, HEAD).weight.zero_()
    return model, own


@torch.no_grad()
def _check_head(model: Any, where: str) -> None:
    """Raise PipelineError unless rewards are the head's of the last token's state, which knows what is before it."""
    head: Any = getattr(model, HEAD, None)
    fits = isinstance(head, nn.Linear) and head.out_features == 1
    if fits:
        ids = torch.arange(1, 9, device=model.device)[None] * 7 % text_config(model).vocab_size
        ids[ids == text_config(model).pad_token_id] = 0
        logits = model(input_ids=ids, use_cache=False).logits
        whole, part = (backbone_of(model)(input_ids=x, use_cache=False).last_hidden_state for x in (ids, ids[:, :5]))
        expected = functional.linear(whole[:, -1], head.weight, head.bias)
        near = {"rtol": 1e-2, "atol": 1e-2}
        fits = torch.allclose(logits.float(), expected.float(), **near)
        fits = fits and torch.allclose(whole[:, :5].float(), part.float(), **near)
    if not fits:
        raise PipelineError(
            f"{where}: {type(model).__name__} gives no reward by a head of the last token's state; take a decoder-only "
            "model."
        )


def check_fits(model: Any, max_tokens: int, largest_id: int, section: str) -> None:
    """Raise PipelineError where texts may be longer than the model's positions, or have a token that it has not."""
    for limit, what in borders(model):
        if max_tokens > limit:
            raise PipelineError(
                f"params.yaml: {section}.max_tokens: {max_tokens}, the model has {limit} positions{what}; lower it."
            )
    if largest_id >= rows_of(model):
        raise PipelineError(
            f"params.yaml: {section}.model: its tokenizer gives token {largest_id}, the model has {rows_of(model)} "
            "tokens; they do not belong together."
        )


def head_of_reward(model: Any, own: bool, *key: object) -> ValueHead:
    """Return the head to train, in fp32: the model's own, or drawn as transformers and TRL do for a new one.

    w ~ N(0, initializer_range^2), by a generator that depends on `key` alone.
    """
    head = ValueHead(getattr(model, HEAD).in_features)
    if own:
        first = getattr(model, HEAD).weight.float()
    else:
        std = getattr(text_config(model), "initializer_range", 0.02)
        first = torch.from_numpy(generator(*key, "head").normal(0.0, std, tuple(head.linear.weight.shape)))
    with torch.no_grad():
        head.linear.weight.copy_(first)
    return head.to(model.device)


def read_ids(ids: list[int], pad_id: int) -> np.ndarray:
    """Return a text's tokens up to the one that its reward is read at: the last that is no padding token.

    transformers knows padding by its token alone, so that a text's own end counts as padding where it is that token.
    """
    array = np.array(ids, np.int32)
    places = np.flatnonzero(array != pad_id)
    return array[: places[-1] + 1 if len(places) else 1]


def padding_of(model: Any, tokenizer: Any, where: str) -> int:
    """Return the padding token's id, and put it into the configuration and the tokenizer: else no batch can be scored.

    The tokenizer's own, or the configuration's, or the end token, as TRL takes it. Raises PipelineError without any.
    """
    ids = (tokenizer.pad_token_id, text_config(model).pad_token_id, tokenizer.eos_token_id)
    found = next((i for i in ids if isinstance(i, int) and 0 <= i < rows_of(model)), None)
    if found is None:
        raise PipelineError(f"{where}: neither a padding token nor an end token; give its tokenizer a pad_token.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(found)
    text_config(model).pad_token_id = model.config.pad_token_id = found
    return found
