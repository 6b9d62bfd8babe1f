"""From a conversation to the token ids that the model continues."""

from typing import Any

from ..errors import PipelineError
from ..observe.progress import result
from .chat_template import END, START, ChatTemplate
from .conversations import Messages
from .special_text import OWN, SpecialText


class Renderer:
    """Makes text and token ids of conversations, for one model and the settings `prompts`.

    chat_template auto: the tokenizer's chat template with its generation prompt, where it has one. Else, and with
    plain: a single user message is taken as it is; a longer conversation as lines `User: ...`, ending in
    `Assistant:`. Plain text gets the tokenizer's own special tokens before it (such as a start token), none after it.
    A last message by the assistant is left open for the model to go on with.
    date: today's, to a template that asks. special_tokens: what their text is within a message, text or tokens.
    vocabulary: how many tokens the model has. Raises PipelineError for a template or tokenizer that cannot be used.
    """

    def __init__(
        self,
        tokenizer: Any,
        chat_template: str,
        date: str | None = None,
        special_tokens: str = "text",
        vocabulary: int | None = None,
    ) -> None:
        self._tokenizer, self._vocabulary = tokenizer, vocabulary
        self._template = ChatTemplate(tokenizer, date) if has_template(tokenizer, chat_template) else None
        unused = str(getattr(tokenizer, "chat_template", None) or "")  # its tokens are the model's all the same
        self._special = SpecialText(tokenizer, self._template.own_text() if self._template else unused)
        self._as_text = special_tokens == "text"
        self._tail = 0 if self._template else _appended(tokenizer)

    def texts_and_ids(
        self, conversations: list[Messages], names: list[str], closed: bool = False
    ) -> tuple[list[str], list[list[int]]]:
        """Return each conversation's text, and its token ids.

        closed: of conversations that are over, the assistant's last message with its end. Raises PipelineError, with
        the conversation's name, where the template or the tokenizer loses or changes a part of it, or makes a token
        that the model has not.
        """
        named = list(zip(conversations, names, strict=True))
        texts = [self._text(messages, name, closed) for messages, name in named]
        own = [self._special_text(messages, name, closed) for messages, name in named]
        rest = [text for text, ids in zip(texts, own, strict=True) if ids is None]
        ordinary = iter(self._tokenizer(rest, add_special_tokens=not self._template)["input_ids"] if rest else [])
        found = [next(ordinary) if ids is None else ids for ids in own]
        found = [ids[: len(ids) - self._tail] for ids in found]
        if closed and not self._template:
            if self._tokenizer.eos_token_id is None:
                raise PipelineError("the model's tokenizer has no end token (eos_token), so that no answer could end.")
            found = [[*ids, self._tokenizer.eos_token_id] for ids in found]
        for ids, name in zip(found, names, strict=True):
            if self._vocabulary is not None and max(ids, default=0) >= self._vocabulary:
                token = self._tokenizer.decode([max(ids)])
                raise PipelineError(
                    f"{name}: its token {token!r} is number {max(ids)}, the model has {self._vocabulary}; either the "
                    "tokenizer is another model's, or the prompt must do without this token."
                )
        return texts, found

    def special_text(self, messages: Messages) -> str | None:
        """Return the first special token's text that is taken as text in this conversation, None where none is."""
        return self._special.found(messages) if self._as_text else None

    def _text(self, messages: Messages, name: str, closed: bool) -> str:
        if any(mark in message["content"] for message in messages for mark in (START, END, OWN)):
            raise PipelineError(f"{name}: the characters U+10FFF0 to U+10FFF2 are marks of this program; remove them.")
        if self._template is None:
            return answered_text(messages) if closed else plain_text(messages)
        text = self._template.write(messages, name, closed)
        self._template.check(messages, text, name, closed)
        return text

    def _special_text(self, messages: Messages, name: str, closed: bool) -> list[int] | None:
        """Return the ids of a conversation with special tokens' text that is to be text; None for any other."""
        hit = self.special_text(messages)
        if hit is None:
            return None
        marked = self._special.marked(messages)
        if self._template:
            written = self._template.write(marked, name, closed)
        else:
            written = answered_text(marked) if closed else plain_text(marked)
        ids = self._special.encode(written, add_special_tokens=not self._template)
        if ids is None:
            raise PipelineError(
                f"{name}: this tokenizer can only take {hit!r} for the special token of that name; remove it, or set "
                "prompts.special_tokens to tokens."
            )
        return ids


def _appended(tokenizer: Any) -> int:
    """Return how many special tokens the tokenizer puts after a text: a prompt that ends in one is over."""
    for word in ("a", "1", "一"):  # a vocabulary may lack one
        bare, full = (tokenizer(word, add_special_tokens=add)["input_ids"] for add in (False, True))
        for start in range(len(full) - len(bare) + 1):
            if bare and full[start : start + len(bare)] == bare and bare[-1] != tokenizer.eos_token_id:
                return len(full) - start - len(bare)
    raise PipelineError("the model's tokenizer makes no token of plain text, or ends every text in its end token.")


def has_template(tokenizer: Any, chat_template: str) -> bool:
    """Tell whether prompts go through the tokenizer's chat template, by the setting `prompts.chat_template`."""
    return chat_template == "auto" and bool(getattr(tokenizer, "chat_template", None))


def plain_text(messages: Messages) -> str:
    """Return the conversation without a template: a single user message as it is, else `User: ...` lines.

    Where the assistant's message comes last, its line is the last one.
    """
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    lines = [f"{message['role'].capitalize()}: {message['content']}" for message in messages]
    return "\n".join(lines if messages[-1]["role"] == "assistant" else [*lines, "Assistant:"])


def answered_text(messages: Messages) -> str:
    """Return the conversation without a template, the assistant's last message right behind its prompt's text."""
    prompt = plain_text(messages[:-1])
    return prompt + (" " if prompt.endswith("\nAssistant:") else "") + messages[-1]["content"]


def render(tokenizer: Any, messages: Messages, chat_template: str, **how: Any) -> tuple[str, list[int]]:
    """Return one prompt's text and token ids; how: the further settings of a Renderer."""
    [text], [ids] = Renderer(tokenizer, chat_template, **how).texts_and_ids([messages], ["the prompt"])
    return text, ids


def render_all(
    tokenizer: Any, prompt_ids: list[str], conversations: list[Messages], chat_template: str, limit: int, **how: Any
) -> list[tuple[str, list[int]]]:
    """Render each conversation; how: the further settings of a Renderer.

    Raises PipelineError for one with no token, or with more than `limit`.
    """
    names = [f"prompts.parquet: prompt '{prompt_id}'" for prompt_id in prompt_ids]
    texts, all_ids = Renderer(tokenizer, chat_template, **how).texts_and_ids(conversations, names)
    longer = [(name, len(ids)) for name, ids in zip(names, all_ids, strict=True) if len(ids) > limit]
    for name, ids in zip(names, all_ids, strict=True):
        if not ids:
            raise PipelineError(f"{name} has no token; remove it.")
    if longer:
        name, count = longer[0]
        longest = max(count for _, count in longer)
        more = f" ({len(longer) - 1} more too long, the longest has {longest})" if len(longer) > 1 else ""
        raise PipelineError(
            f"{name} has {count} tokens, rollout.max_prompt_tokens is {limit}{more}; shorten the prompt or raise the "
            "setting."
        )
    return list(zip(texts, all_ids, strict=True))


def check_prompts(tokenizer: Any, prompts: Any, chat_template: str, limit: int, stage: str, **how: Any) -> None:
    """Check every prompt of the table as `render_all` does, in a run's first round: not hours later, when it is drawn.

    Says, in the output of `stage`, where the model has no chat template that the prompts could go through, and how many
    prompts have the text of a special token in them.
    """
    if chat_template == "auto" and not has_template(tokenizer, chat_template):
        result(stage, "the model has no chat template: prompts are given to it as plain text (prompts.chat_template)")
    names, conversations = (prompts.column(name).to_pylist() for name in ("prompt_id", "messages"))
    render_all(tokenizer, names, conversations, chat_template, limit, **how)
    renderer = Renderer(tokenizer, chat_template, **how)
    hits = [(name, hit) for name, m in zip(names, conversations, strict=True) if (hit := renderer.special_text(m))]
    if hits:
        name, hit = hits[0]
        result(
            stage,
            f"prompts with special tokens' text: {len(hits)}, such as {hit!r} in '{name}'; it is taken as text, not as "
            "the token (prompts.special_tokens)",
        )
