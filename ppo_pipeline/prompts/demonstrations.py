"""Answers to learn from: rows of files, each a conversation in which the assistant speaks as he should."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PipelineError, nearest
from .conversations import Messages, conversation_of, with_system
from .files import prompt_files, rows_of
from .sources import digest_of, split_of

COLUMNS = ("messages", "prompt", "completion")


@dataclass(frozen=True)
class Demonstration:
    """A row: its file and number as `name`, and its conversation, which ends with the assistant.

    turns: the places of the assistant's messages that are learnt. split: train or heldout.
    """

    name: str
    messages: Messages
    turns: list[int]
    split: str


def read_demonstrations(source: Path, heldout_fraction: float, system: str | None, setting: str) -> list[Demonstration]:
    """Return the rows of a file or folder, in the order of its files and rows.

    Each has `messages`, of which every assistant's is learnt, or `prompt` and `completion` (TRL's names): texts of the
    user and the assistant, or lists of messages. A row without `split` is held out by the hash of its prompt, so that
    no prompt is in both. system: the message put before conversations that have none. Raises PipelineError naming
    file and row for whatever else: nothing is left out.
    """
    found: list[Demonstration] = []
    seen: dict[str, str] = {}
    splits: dict[str, tuple[str, str]] = {}
    for path in prompt_files(source, setting):
        for number, row in rows_of(path):
            place = f"{path}, row {number}"
            messages, given = _conversation(row, place)
            _check(messages, given, place)
            turns = [i for i in range(given, len(messages)) if messages[i]["role"] == "assistant"]
            whole = digest_of([messages, turns], place)
            if whole in seen:
                raise PipelineError(f"{place}: the same as {seen[whole]}; remove one of them.")
            seen[whole] = place
            prompt = digest_of(messages[: turns[0]], place)
            split = split_of(row, prompt, heldout_fraction, place)
            other, where = splits.setdefault(prompt, (split, place))
            if other != split:
                raise PipelineError(f"{place}: split '{split}', and {where} with the same prompt is '{other}'.")
            shown = with_system(messages, system)
            before = len(shown) - len(messages)
            found.append(Demonstration(place, shown, [before + turn for turn in turns], split))
    if all(row.split != "train" for row in found):
        raise PipelineError(f"{source}: no row is left to train on; lower heldout_fraction, or check the split column.")
    return found


def _conversation(row: dict[str, Any], place: str) -> tuple[Messages, int]:
    """Return the messages of a row, and how many of them are its prompt."""
    _refuse_empty_answers(row, place)
    answer = row.get("completion")
    if row.get("messages") and (answer or row.get("prompt")):
        raise PipelineError(f"{place}: both `messages` and `prompt` or `completion`; keep one form.")
    rest = {name: value for name, value in row.items() if name != "completion"}
    if row.get("messages"):
        return conversation_of(rest, True, place), 1
    if row.get("prompt"):
        if answer is None:
            raise PipelineError(f"{place}: `prompt` without `completion`, the answer to learn.{_hint(row)}")
        prompt = conversation_of(rest, True, place)
        completion = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
        return prompt + conversation_of({"messages": completion}, True, f"{place}: completion"), len(prompt)
    if any(name in row for name in COLUMNS):
        raise PipelineError(f"{place}: empty: neither `messages` nor `prompt` has a value.")
    raise PipelineError(f"{place}: neither `messages` nor `prompt` and `completion`.{_hint(row)}")


def _hint(row: dict[str, Any]) -> str:
    close = next((nearest(name, [*COLUMNS]) for name in row if name not in COLUMNS and nearest(name, [*COLUMNS])), "")
    return f"{close} It has {', '.join(map(repr, row))}."


def _refuse_empty_answers(row: dict[str, Any], place: str) -> None:
    for name in ("messages", "completion"):
        value = row.get(name)
        texts = [value] if name == "completion" and isinstance(value, str) else []
        for message in value if isinstance(value, list) else []:
            if isinstance(message, dict) and message.get("role") == "assistant":
                texts.append(message.get("content") or "")
        if value == [] or any(isinstance(text, str) and not text.strip() for text in texts):
            raise PipelineError(f"{place}: an empty answer in `{name}`; remove the row, or write the answer.")


def _check(messages: Messages, given: int, place: str) -> None:
    """Raise PipelineError for a conversation in which not every answer follows on somebody else's words."""
    roles = [message["role"] for message in messages]
    if roles[-1] != "assistant":
        raise PipelineError(f"{place}: the last message is the {roles[-1]}'s; it must be the assistant's answer.")
    if roles[0] == "assistant":
        raise PipelineError(f"{place}: the first message is the assistant's; put before it what it answers.")
    twice = next((i for i in range(given, len(roles)) if roles[i] == roles[i - 1] == "assistant"), None)
    if twice is not None:
        raise PipelineError(f"{place}: messages {twice} and {twice + 1} are both the assistant's; make them one.")
