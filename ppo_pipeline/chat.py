"""From a conversation to the token ids that the model continues."""

from typing import Any

from .errors import PipelineError


def render(tokenizer: Any, messages: list[dict[str, str]], chat_template: str) -> tuple[str, list[int]]:
    """Return the prompt's text and token ids.

    auto: the tokenizer's chat template with its generation prompt, where it has one. Else, and with plain:
    a single user message is taken as it is; a longer conversation as lines `User: ...`, ending in
    `Assistant:`. Plain text gets the tokenizer's own special tokens (such as a start token).
    """
    if chat_template == "auto" and getattr(tokenizer, "chat_template", None):
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # templates raise what they like, mostly jinja2's TemplateError
            raise PipelineError(f"the model's chat template refuses {messages!r}: {error}") from None
        return text, tokenizer(text, add_special_tokens=False)["input_ids"]
    text = plain_text(messages)
    return text, tokenizer(text)["input_ids"]


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
    rendered = []
    for prompt_id, messages in zip(prompt_ids, conversations, strict=True):
        text, ids = render(tokenizer, messages, chat_template)
        if not ids:
            raise PipelineError(f"prompts.parquet: prompt '{prompt_id}' has no token; remove it.")
        if len(ids) > limit:
            raise PipelineError(
                f"prompts.parquet: prompt '{prompt_id}' has {len(ids)} tokens, rollout.max_prompt_tokens is {limit}; "
                "shorten the prompt or raise the setting."
            )
        rendered.append((text, ids))
    return rendered
