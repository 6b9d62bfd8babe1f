"""Load the base model and its tokenizer from data/base/, a plain transformers folder; no network, no pickle."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ..errors import PipelineError
from ..errors.machine_faults import is_machines
from ..storage.files import read_json
from .trust import advice, check_folder, code_allowed

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def load_model(folder: Path, device: torch.device, dtype: torch.dtype | Literal["auto"]) -> Any:
    """Return the causal language model at `folder` in evaluation mode, its weights frozen.

    dtype: auto leaves the dtype that the weights are saved in.
    Code that the folder brings along runs only where its source.json and params.yaml allow it.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    if not (folder / "config.json").is_file():
        raise PipelineError(f"{folder}: no config.json, so no transformers model; check `base.model`.")
    check_folder(folder, "model")
    logging.disable_progress_bar()
    with readable(f"{folder}: cannot be loaded as a causal language model"):
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=code_allowed(read_source(folder)),
            output_loading_info=True,
        )
    check_complete(info, str(folder))
    model.requires_grad_(False)
    return model.to(device).eval()


def load_tokenizer(folder: Path, trusted: bool | None = None) -> Any:
    """Return the tokenizer at `folder`; trusted: whether code that it brings along may run, None as in `load_model`."""
    from transformers import AutoTokenizer

    trusted = code_allowed(read_source(folder)) if trusted is None else trusted
    with readable(f"{folder}: its tokenizer cannot be loaded"):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trusted)


def vocabulary_of(folder: Path) -> int:
    """Return how many tokens the model at `folder` has by its configuration, without loading its weights."""
    from transformers import AutoConfig

    trusted = code_allowed(read_source(folder))
    with readable(f"{folder}: its configuration cannot be loaded"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trusted)
        return int(config.get_text_config().vocab_size)


@contextmanager
def readable(problem: str) -> Iterator[None]:
    """Turn whatever transformers raises about a model's files into a PipelineError that starts with `problem`.

    A damaged file makes it raise what it trips over: KeyError, TypeError, SafetensorError, Exception itself. A full
    disk or too little memory is no fault of the files and passes through.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, PipelineError) or is_machines(error):
            raise
        text = " ".join(str(error).split())  # transformers' own may run over many lines
        raise PipelineError(f"{problem}: {type(error).__name__}: {text:.300}{advice(error)}") from None


def check_complete(info: dict[str, Any], where: str) -> None:
    """Raise PipelineError where from_pretrained had no weights for a part of the model and made some up."""
    absent = sorted(info["missing_keys"])
    if absent:
        more = ", ..." if len(absent) > 3 else ""
        raise PipelineError(f"{where}: no trained language model: it has no weights for {', '.join(absent[:3])}{more}.")


def read_source(folder: Path) -> dict[str, Any]:
    """Return source.json, what the stage `base` wrote of the model's origin; empty for a folder without it."""
    path = folder / "source.json"
    return read_json(path) if path.is_file() else {}


def backbone_of(model: Any) -> nn.Module:
    """Return the part of a causal language model below its head: token ids to last hidden states."""
    from transformers import PreTrainedModel

    backbone: nn.Module = model.base_model
    if backbone is not model:
        return backbone
    return next((part for part in model.children() if isinstance(part, PreTrainedModel)), backbone)


def head_of(model: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return weight (V, H) and bias (V,) of the language-model head."""
    head = model.get_output_embeddings()
    return head.weight, getattr(head, "bias", None)


def logit_divisor(model: Any) -> float:
    """Return what the architecture divides its head's output by: 1, or a scale in the config of Granite or Cohere.

    It counts as a part of the temperature: every logprob here is of z / (divisor temperature), z = W h + b.
    """
    divisor, factor = (getattr(text_config(model), name, None) for name in ("logits_scaling", "logit_scale"))
    return (divisor if isinstance(divisor, int | float) else 1.0) / (factor if isinstance(factor, int | float) else 1.0)


def text_config(model: Any) -> Any:
    """Return the config of the part that reads text, which in a model of several kinds of input is one of several."""
    return model.config.get_text_config(decoder=True)


def hidden_width(model: Any) -> int:
    """Return the width of the backbone's last hidden states, which the head and a value head take.

    Some architectures project the last block's (OPT's `word_embed_proj_dim`), so that no name in the config is sure.
    """
    return int(head_of(model)[0].shape[1])


def rows_of(model: Any) -> int:
    """Return how many tokens the model has: the rows of its embedding, of which a tokenizer may use fewer."""
    return len(model.get_input_embeddings().weight)


def check_supported(model: Any) -> None:
    """Raise PipelineError unless logits are head(backbone(ids)) / logit_divisor, as every logprob here assumes.

    Some architectures cap logits after the head; a forward over a few tokens tells.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        raise PipelineError("base.model: an encoder-decoder model; only decoder-only models can be trained here.")
    if model.get_output_embeddings() is None:
        raise PipelineError("base.model: has no language-model head.")
    ids = torch.arange(1, 9, device=model.device)[None] % text_config(model).vocab_size
    with torch.no_grad():
        expected = model(input_ids=ids, use_cache=False).logits
        weight, bias = head_of(model)
        hidden = backbone_of(model)(input_ids=ids, use_cache=False).last_hidden_state
        found = torch.nn.functional.linear(hidden, weight, bias) / logit_divisor(model)
    if expected.shape != found.shape or not torch.allclose(expected.float(), found.float(), rtol=1e-2, atol=1e-2):
        raise PipelineError(
            f"base.model: {type(model).__name__} changes its logits after the head (as capping does); "
            "such architectures are not supported."
        )


def stop_ids_of(model: Any, tokenizer: Any, more: Sequence[str] = ()) -> list[int]:
    """Return the ids that end a response: the generation config's and the tokenizer's end tokens, and `more`.

    Raises PipelineError for a text in `more` that is not a single token of the tokenizer.
    """
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = list(configured) if isinstance(configured, list) else [configured]
    ids.append(tokenizer.eos_token_id)
    vocabulary = tokenizer.get_vocab() if more else {}
    for text in more:
        # A byte-level vocabulary has other characters as names of bytes: its 'é' is the byte E9, no letter.
        named = vocabulary.get(text)
        is_text = named is not None and tokenizer.decode([named]) == text
        pieces = [named] if is_text else tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(pieces) != 1:
            raise PipelineError(
                f"params.yaml: rollout.stop_tokens: {text!r} is {len(pieces)} tokens to this model; it must be one."
            )
        ids.append(pieces[0])
    return sorted({i for i in ids if i is not None})
