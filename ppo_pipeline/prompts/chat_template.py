"""A model's chat template: the conversation's text as the template writes it, whole and without a clock."""

import datetime
import re
from typing import Any

from ..errors import PipelineError
from .conversations import Messages

# Of Unicode's last private-use plane, so that no prompt has them by chance: around what must be found again.
START, END = "\U0010fff0", "\U0010fff1"
CALL = re.compile(r"\bstrftime_now\(\s*(?:format\s*=\s*)?(?:'([^'\\]*)'|\"([^\"\\]*)\")\s*\)")
OTHER_USE = re.compile(r"\bstrftime_now\b(?!\s+is\s+(?:not\s+)?defined\b)")
COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
THOUGHT_END = "</think>"


class ChatTemplate:
    """The chat template of a tokenizer, with `date` in the place of today's.

    Raises PipelineError where the template asks for the date and `date` is None.
    """

    def __init__(self, tokenizer: Any, date: str | None) -> None:
        self._tokenizer = tokenizer
        try:
            source = tokenizer.get_chat_template()
        except Exception as error:  # a model with several templates and none of them the default
            raise PipelineError(f"the model's chat template cannot be used: {error}") from None
        self.source = dated(source, date)
        # Llama 3's name for a date of the caller; without one those templates take their own, or ask for today's.
        asks = date is not None and "date_string" in source
        self._values = {"date_string": f"{datetime.date.fromisoformat(str(date)):%d %b %Y}"} if asks else {}

    def own_text(self) -> str:
        """Return the template's source and what it writes around messages: its tokens stand there, whole or built."""
        talks = [["user"], ["system", "user"], ["user", "assistant", "user"]]
        texts = [self.source]
        for roles in talks:
            try:
                texts.append(self.write([{"role": role, "content": START} for role in roles], ""))
            except PipelineError:  # such as a template without a system message
                continue
        return "\0".join(texts)

    def write(self, messages: Messages, name: str, closed: bool = False) -> str:
        """Return the conversation's text, open at the end: a last message by the assistant, or a new one of his.

        closed: all messages with their ends instead, as the template writes a conversation that is over. Raises
        PipelineError, starting with `name`, for a conversation that the template refuses.
        """
        goes_on = messages[-1]["role"] == "assistant" and not closed
        try:
            text: str = self._tokenizer.apply_chat_template(
                messages,
                chat_template=self.source,
                tokenize=False,
                add_generation_prompt=not (goes_on or closed),
                continue_final_message=goes_on,
                **self._values,
            )
        except Exception as error:  # templates raise what they like, mostly jinja2's TemplateError
            raise PipelineError(f"{name}: the model's chat template refuses {messages!r}: {error}") from None
        return text

    def check(self, messages: Messages, text: str, name: str, closed: bool = False) -> None:
        """Raise PipelineError, starting with `name`, where the template left out or changed words of a message.

        text: what it wrote. A second writing with marks around each message tells: to look for a message's words in
        the text would find `user` in every text. A template may leave out what an assistant thought before
        `</think>`, as those of thinking models do. The last message by an assistant must be the text's end, unless the
        conversation is closed.
        """
        if not closed and messages[-1]["role"] == "assistant" and not text.endswith(messages[-1]["content"]):
            raise PipelineError(
                f"{name}: the model's chat template changes the assistant's message that the model is to go on with, "
                f"mostly its white space at the ends: {messages[-1]['content']!r} became {text[-60:]!r}."
            )
        marks = [f"{START}{i}{END}" for i in range(len(messages))]
        marked = [{**m, "content": mark + m["content"] + mark} for m, mark in zip(messages, marks, strict=True)]
        written = self.write(marked, name, closed)
        for message, mark in zip(marked, marks, strict=True):
            content = message["content"]
            if message["role"] == "assistant" and content not in written:
                content = content.rpartition(THOUGHT_END)[2].lstrip()
            if content not in written:
                raise PipelineError(
                    f"{name}: the model's chat template leaves out or changes the {message['role']}'s message "
                    f"{content.replace(mark, '')[:60]!r}; {_cure(message['role'])}."
                )


def _cure(role: str) -> str:
    if role == "system":
        return "set prompts.system to null and put it into the user's message, or prompts.chat_template to plain"
    return "write the prompt without it, or set prompts.chat_template to plain"


def dated(source: str, date: str | None) -> str:
    """Return the template with `date` written where it asks for today's by `strftime_now("...")`.

    Raises PipelineError where there is no date, or where the template asks in another way.
    """
    uses = OTHER_USE.search(COMMENT.sub("", source))
    if not uses:
        return source
    if date is None:
        raise PipelineError(
            "params.yaml: prompts.date: the model's chat template asks for today's date, which would be another one "
            "tomorrow; set one, such as '2024-07-26'."
        )
    day = datetime.datetime.fromisoformat(date)

    def text_of(call: re.Match[str]) -> str:
        quote = "'" if call[1] is not None else '"'
        return f"{quote}{day.strftime(call[1] if call[1] is not None else call[2])}{quote}"

    fixed = CALL.sub(text_of, source)
    if OTHER_USE.search(COMMENT.sub("", fixed)):
        raise PipelineError(
            "the model's chat template asks for today's date by strftime_now with a format that it computes; set "
            "prompts.chat_template to plain."
        )
    return fixed
