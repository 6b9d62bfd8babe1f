"""From a conversation to the token ids that the model continues."""

from typing import Any

from .errors import PipelineError
from .progress import result


def render(tokenizer: Any, messages: list[dict[str, str]], chat_template: str) -> tuple[str, list[int]]:
    """Return the prompt's text and token ids; see `render_texts`."""
    [text], [ids] = render_texts(tokenizer, [messages], chat_template)
    return text, ids


def render_texts(
    tokenizer: Any, conversations: list[list[dict[str, str]]], chat_template: str
) -> tuple[list[str], list[list[int]]]:
    """Return each prompt's text, and its token ids.

    auto: the tokenizer's chat template with its generation prompt, where it has one. Else, and with plain:
    a single user message is taken as it is; a longer conversation as lines `User: ...`, ending in
    `Assistant:`. Plain text gets the tokenizer's own special tokens (such as a start token).
    """
    if not conversations:
        return [], []
    if not has_template(tokenizer, chat_template):
        texts = [plain_text(messages) for messages in conversations]
        return texts, tokenizer(texts)["input_ids"]
    texts = []
    for messages in conversations:
        try:
            texts.append(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except Exception as error:  # templates raise what they like, mostly jinja2's TemplateError
            raise PipelineError(f"the model's chat template refuses {messages!r}: {error}") from None
    return texts, tokenizer(texts, add_special_tokens=False)["input_ids"]


def has_template(tokenizer: Any, chat_template: str) -> bool:
    """Tell whether prompts go through the tokenizer's chat template, by the setting `prompts.chat_template`."""
    return chat_template == "auto" and bool(getattr(tokenizer, "chat_template", None))


def plain_text(messages: list[dict[str, str]]) -> str:
    """Return the conversation without a template: a single user message as it is, else `User: ...` lines."""
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    lines = [f"{message['role'].capitalize()}: {message['content']}" for message in messages]
    return "\n".join([*lines, "Assistant:"])


def render_all(
    tokenizer: Any,
    prompt_ids: list[str],
    conversations: list[list[dict[str, str]]],
    chat_template: str,
    limit: int,
) -> list[tuple[str, list[int]]]:
    """Render each conversation; raise PipelineError for one with no token, or with more than `limit`."""
    texts, all_ids = render_texts(tokenizer, conversations, chat_template)
    longer = [(prompt_id, len(ids)) for prompt_id, ids in zip(prompt_ids, all_ids, strict=True) if len(ids) > limit]
    for prompt_id, ids in zip(prompt_ids, all_ids, strict=True):
        if not ids:
            raise PipelineError(f"prompts.parquet: prompt '{prompt_id}' has no token; remove it.")
    if longer:
        prompt_id, count = longer[0]
        longest = max(count for _, count in longer)
        more = f" ({len(longer) - 1} more too long, the longest has {longest})" if len(longer) > 1 else ""
        raise PipelineError(
            f"prompts.parquet: prompt '{prompt_id}' has {count} tokens, rollout.max_prompt_tokens is {limit}{more}; "
            "shorten the prompt or raise the setting."
        )
    return list(zip(texts, all_ids, strict=True))


def check_prompts(tokenizer: Any, prompts: Any, chat_template: str, limit: int, stage: str) -> None:
    """Check every prompt of the table as `render_all` does, in a run's first round: not hours later, when it is drawn.

    Says, in the output of `stage`, where the model has no chat template that the prompts could go through.
    """
    if chat_template == "auto" and not has_template(tokenizer, chat_template):
        result(stage, "the model has no chat template: prompts are given to it as plain text (prompts.chat_template)")
    names, conversations = (prompts.column(name).to_pylist() for name in ("prompt_id", "messages"))
    render_all(tokenizer, names, conversations, chat_template, limit)
