"""What a reward model reads: prompt and response as token ids."""

from typing import TYPE_CHECKING, Any

from ..errors import PipelineError
from ..prompts.conversations import answered
from ..prompts.rendering import plain_text
from .samples import Samples

if TYPE_CHECKING:
    from .types.model import ModelComponent

NAMES = ("input_ids", "attention_mask", "token_type_ids")


def tokenise(
    settings: "ModelComponent", tokenizer: Any, samples: Samples
) -> tuple[list[dict[str, list[int]]], list[int]]:
    """Return each sample's model inputs, and the places of those that were cut to `max_tokens`.

    pair: tokenizer(prompt, response), the prompt being the messages as plain text. concat: tokenizer(prompt +
    response), the prompt as the policy saw it. chat: the messages and the response through the tokenizer's chat
    template, without further special tokens. Raises PipelineError, with the sample named, for an input that is too
    long and may not be cut, or is empty.
    """
    tokenizer.truncation_side = "left" if settings.too_long == "cut_start" else "right"
    inputs, cut = [], []
    for i, sample_id in enumerate(samples.sample_ids):
        where = f"reward '{settings.name}': sample '{sample_id}'"
        texts, options = _texts(settings, tokenizer, samples, i, where)
        item = _encode(tokenizer, texts, options)
        length = len(item["input_ids"])
        if length > settings.max_tokens:
            if settings.too_long == "error":
                raise PipelineError(
                    f"{where}: {length} tokens, max_tokens is {settings.max_tokens}; raise it, or set too_long to "
                    "cut_start or cut_end."
                )
            item = _cut(settings, tokenizer, texts, options, where)
            cut.append(i)
        if not item["input_ids"]:
            raise PipelineError(f"{where}: the reward model's tokenizer makes no token of it.")
        inputs.append(item)
    return inputs, cut


def _texts(
    settings: "ModelComponent", tokenizer: Any, samples: Samples, i: int, where: str
) -> tuple[list[str], dict[str, Any]]:
    """Return the one or two segments of sample `i` and the options to tokenise them with."""
    response = samples.responses[i]
    if settings.input == "pair":
        return [plain_text(samples.messages[i]), response], {}
    if settings.input == "chat":
        if not getattr(tokenizer, "chat_template", None):
            raise PipelineError(f"reward '{settings.name}': input: chat: the reward model has no chat template.")
        talk = answered(samples.messages[i], response)
        try:
            return [tokenizer.apply_chat_template(talk, tokenize=False)], {"add_special_tokens": False}
        except Exception as error:  # templates raise what they like
            raise PipelineError(f"{where}: the reward model's chat template refuses it: {error}") from None
    text = samples.prompt_texts[i] + response
    start = tokenizer.bos_token
    if start and text.startswith(start) and tokenizer(start)["input_ids"][:2] == [tokenizer.bos_token_id] * 2:
        text = text[len(start) :]  # the tokenizer puts one there itself
    return [text], {}


def _encode(tokenizer: Any, texts: list[str], options: dict[str, Any]) -> dict[str, list[int]]:
    encoded = tokenizer(*texts, return_attention_mask=True, verbose=False, **options)
    return {name: encoded[name] for name in NAMES if name in encoded}


def _cut(
    settings: "ModelComponent", tokenizer: Any, texts: list[str], options: dict[str, Any], where: str
) -> dict[str, list[int]]:
    segment = "only_first" if len(texts) == 1 or settings.too_long == "cut_start" else "only_second"
    try:
        item = _encode(tokenizer, texts, {**options, "truncation": segment, "max_length": settings.max_tokens})
    except Exception as error:  # tokenizers has no exception class of its own
        if "truncat" not in str(error).lower() and "max_length" not in str(error):
            raise
        item = {"input_ids": []}
    if not 0 < len(item["input_ids"]) <= settings.max_tokens:
        other = "response" if settings.too_long == "cut_start" else "prompt"
        raise PipelineError(
            f"{where}: the {other} alone is longer than max_tokens, {settings.max_tokens}; raise it or change too_long."
        )
    return item
