"""What a reward model reads: prompt and response as token ids."""

from typing import TYPE_CHECKING, Any

from ..errors import PipelineError
from ..prompts.answer_inputs import chat_input, check_template, concat_input, encode
from ..prompts.rendering import plain_text
from .samples import Samples

if TYPE_CHECKING:
    from .types.model import ModelComponent


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
        item = encode(tokenizer, texts, options)
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
        check_template(tokenizer, f"reward '{settings.name}': input")
        text, options = chat_input(tokenizer, samples.messages[i], response, where)
    else:
        text, options = concat_input(tokenizer, samples.prompt_texts[i], response)
    return [text], options


def _cut(
    settings: "ModelComponent", tokenizer: Any, texts: list[str], options: dict[str, Any], where: str
) -> dict[str, list[int]]:
    segment = "only_first" if len(texts) == 1 or settings.too_long == "cut_start" else "only_second"
    try:
        item = encode(tokenizer, texts, {**options, "truncation": segment, "max_length": settings.max_tokens})
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
