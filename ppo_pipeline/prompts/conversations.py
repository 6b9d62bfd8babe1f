"""The conversation of a prompt, as its author wrote it: a list of {role, content}."""

from typing import Any

from ..errors import PipelineError, nearest
from .files import NOT_JSON, parse

ROLES = ("system", "user", "assistant")
UNSEEN = ("tools", "documents", "chat_template_kwargs", "image", "images")  # other programs show these
Messages = list[dict[str, str]]


def conversation_of(row: dict[str, Any], continue_final_message: bool, place: str) -> Messages:
    """Return the messages of a row's `prompt` (a user's text, or a list of messages) or `messages`, `system` first.

    continue_final_message: whether the last message may be the assistant's; the model then goes on with it.
    An empty cell of a file that has both columns counts as absent. Raises PipelineError, starting with `place`, for
    whatever else is no text of a system, user or assistant: a part of a message that no model would see is an error.
    """
    for name in UNSEEN:
        if not _is_empty(row.get(name)):
            raise PipelineError(
                f"{place}: the model would not see the column '{name}'; rename it if it is for the reward, else put it "
                "into `messages`."
            )
    name = _column(row, place)
    messages = row[name]
    if name == "prompt" and not isinstance(messages, list):
        messages = [{"role": "user", "content": messages}]
    if isinstance(messages, str):
        try:
            messages = parse(messages)
        except NOT_JSON as error:
            raise PipelineError(f"{place}: `{name}` is text that is not JSON: {error}.") from None
    if not isinstance(messages, list) or not messages:
        raise PipelineError(f"{place}: `{name}` must be a list of {{role, content}}.")
    messages = [message_of(message, place) for message in messages]
    if not _is_empty(row.get("system")):
        if messages[0]["role"] == "system":
            raise PipelineError(f"{place}: both `system` and a system message in `{name}`; keep one.")
        messages = [message_of({"role": "system", "content": row["system"]}, place, "system prompt"), *messages]
    if messages[-1]["role"] == "assistant" and not continue_final_message:
        raise PipelineError(
            f"{place}: the last message is the assistant's; remove it, or set prompts.continue_final_message to true: "
            "the model then goes on with its text."
        )
    return messages


def with_system(messages: Messages, system: str | None) -> Messages:
    """Return the conversation with the setting `prompts.system` before it, where it has no system message itself."""
    if system is None or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]


def answered(messages: Messages, response: str) -> Messages:
    """Return the conversation with the model's response, which goes on with a last message by the assistant."""
    if messages[-1]["role"] != "assistant":
        return [*messages, {"role": "assistant", "content": response}]
    return [*messages[:-1], {"role": "assistant", "content": messages[-1]["content"] + response}]


def _column(row: dict[str, Any], place: str) -> str:
    """Return the name of the column that has the conversation."""
    given = [name for name in ("prompt", "messages") if row.get(name) is not None]
    filled = [name for name in given if row[name] not in ("", [])]
    if len(filled) == 2:
        raise PipelineError(f"{place}: both `prompt` and `messages`; keep one.")
    if filled or given:
        return (filled or given)[0]
    if "prompt" in row or "messages" in row:
        raise PipelineError(f"{place}: empty prompt: neither `prompt` nor `messages` has a value.")
    hint = next((nearest(k, ["prompt", "messages"]) for k in row if nearest(k, ["prompt", "messages"])), "")
    raise PipelineError(f"{place}: neither `prompt` nor `messages`.{hint}")


def message_of(message: Any, place: str, what: str = "prompt") -> dict[str, str]:
    """Return a message as role and text; raise PipelineError, starting with `place`, where it is anything else.

    what: what is empty where the message is.
    """
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise PipelineError(f"{place}: a message's role must be one of {', '.join(ROLES)}; found {message!r}.")
    more = [key for key, value in message.items() if key not in ("role", "content") and not _is_empty(value)]
    if more:
        raise PipelineError(f"{place}: a message has role and content alone; the model would not see its {more[0]!r}.")
    content = message.get("content")
    text = _text(content)
    if text is None or not text.strip():
        raise PipelineError(f"{place}: empty {what}: a message's content must be text, found {content!r}.")
    if "\0" in text:
        raise PipelineError(f"{place}: a character U+0000 in {text[:40]!r}; a file in UTF-16 must be made UTF-8.")
    return {"role": message["role"], "content": text}


def _text(content: Any) -> str | None:
    """Return text, or the joined text of parts {type: text, text: ...}; None for anything else."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            return None
        if any(key not in ("type", "text") and not _is_empty(value) for key, value in part.items()):
            return None
        texts.append(part["text"])
    return "".join(texts)


def _is_empty(value: Any) -> bool:
    """Tell whether a key's value says nothing: Parquet gives every message the keys of all."""
    return value is None or (isinstance(value, (str, list, dict)) and not value)
