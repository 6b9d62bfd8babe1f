"""Does a tokenizer belong to a model? Asked once, when the stage `base` brings both."""

from typing import Any

from ..errors import PipelineError
from ..prompts.chat_template import START
from .loading import rows_of, stop_ids_of


def check_tokenizer(model: Any, tokenizer: Any) -> list[str]:
    """Return what a person should know about the tokenizer with this model, in a sentence each.

    Raises PipelineError for one that makes no tokens of text, as transformers makes up for a folder without a
    tokenizer, or tokens that the model has not.
    """
    added = tokenizer.get_added_vocab()
    words = {token: i for token, i in tokenizer.get_vocab().items() if token not in added}
    if not words or not tokenizer("a", add_special_tokens=False)["input_ids"]:
        raise PipelineError(
            "base.model: no tokenizer beside the weights; put its files (tokenizer.json, tokenizer_config.json) there."
        )
    rows = rows_of(model)
    used = f"{getattr(tokenizer, 'chat_template', None) or ''}{tokenizer.eos_token}{tokenizer.bos_token}"
    beyond = sorted((i, token) for token, i in {**words, **added}.items() if i >= rows)
    wanted = [(i, token) for i, token in beyond if token in words or token in used]
    if wanted:
        i, token = wanted[0]
        raise PipelineError(
            f"base.model: the tokenizer's token {token!r} is number {i}, the model has {rows}: it is another "
            "model's tokenizer, or the model was not resized for added tokens."
        )
    hints = [_end_hint(model, tokenizer, rows)]
    if beyond:
        hints.append(
            f"the tokenizer has {len(beyond)} tokens that the model has not, such as {beyond[0][1]!r}: a prompt with "
            "one is refused"
        )
    return [hint for hint in hints if hint]


def check_saved(tokenizer: Any, saved: Any) -> None:
    """Raise PipelineError where a tokenizer, saved and loaded again, tokenises a text of many kinds differently."""
    text = "".join(["It's 3,141 + 2 = x_y?\n\n\tÉté  ", *tokenizer.all_special_tokens, " 你好 😀"])
    for add in (False, True):
        if tokenizer(text, add_special_tokens=add)["input_ids"] != saved(text, add_special_tokens=add)["input_ids"]:
            raise PipelineError(
                "base.model: transformers loads the saved tokenizer as another one, which makes other tokens of the "
                "same text; see whether tokenizer_config.json beside the weights names the right tokenizer_class."
            )


def _end_hint(model: Any, tokenizer: Any, rows: int) -> str:
    """Return what is to be said where responses would not end by themselves; empty where they can."""
    stop_ids = [i for i in stop_ids_of(model, tokenizer) if 0 <= i < rows]
    if not stop_ids:
        return (
            "the model has no end token: each response is cut at rollout.max_new_tokens; name a token in "
            "rollout.stop_tokens that ends one"
        )
    token = _after_answer(tokenizer)
    if token is None or tokenizer.convert_tokens_to_ids(token) in stop_ids:
        return ""
    return (
        f"the chat template ends an answer with {token!r}, which is not among the model's end tokens: put it into "
        "rollout.stop_tokens, or responses may run on"
    )


def _after_answer(tokenizer: Any) -> str | None:
    """Return the special token that the chat template writes after an answer; None where there is none to be found."""
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": START}]
    try:
        text = tokenizer.apply_chat_template(talk, tokenize=False)
    except Exception:  # templates raise what they like; rendering the prompts will tell
        return None
    ids = tokenizer(text.rpartition(START)[2], add_special_tokens=False)["input_ids"]
    special = {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return next((special[i] for i in ids if i in special), None)
