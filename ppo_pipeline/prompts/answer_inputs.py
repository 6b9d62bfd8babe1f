"""What a reward model reads: a prompt with its answer, as one text and as token ids, to learn from and to score."""

from typing import Any

from ..errors import PipelineError
from .conversations import Messages, answered

NAMES = ("input_ids", "attention_mask", "token_type_ids")


def check_template(tokenizer: Any, setting: str) -> None:
    """Raise PipelineError, with the setting `input` named, where the tokenizer has no chat template."""
    if not getattr(tokenizer, "chat_template", None):
        raise PipelineError(f"{setting}: chat: the reward model has no chat template.")


def chat_input(tokenizer: Any, messages: Messages, answer: str, where: str) -> tuple[str, dict[str, Any]]:
    """Return messages and answer through the tokenizer's chat template, and how to tokenise that: with no more tokens.

    Raises PipelineError, starting with `where`, for a conversation that the template refuses.
    """
    try:
        text = tokenizer.apply_chat_template(answered(messages, answer), tokenize=False)
    except Exception as error:  # templates raise what they like
        raise PipelineError(f"{where}: the reward model's chat template refuses it: {error}") from None
    return text, {"add_special_tokens": False}


def concat_input(tokenizer: Any, prompt_text: str, answer: str) -> tuple[str, dict[str, Any]]:
    """Return the answer behind the prompt as the policy saw it, and how to tokenise that: with one start token."""
    text = prompt_text + answer
    start = tokenizer.bos_token
    if start and text.startswith(start) and tokenizer(start)["input_ids"][:2] == [tokenizer.bos_token_id] * 2:
        text = text[len(start) :]  # the tokenizer puts one there itself
    return text, {}


def encode(tokenizer: Any, texts: list[str], options: dict[str, Any]) -> dict[str, list[int]]:
    """Return the model inputs of one text, or of two segments."""
    encoded = tokenizer(*texts, return_attention_mask=True, verbose=False, **options)
    return {name: encoded[name] for name in NAMES if name in encoded}
