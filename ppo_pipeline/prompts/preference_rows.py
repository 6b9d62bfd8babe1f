"""A row of a preference data set: a prompt and two answers to it, of which one was preferred."""

from decimal import Decimal
from typing import Any, NamedTuple

from ..errors import PipelineError, nearest
from .column_values import truth
from .conversations import Messages, conversation_of, message_of

ANSWERS = ("chosen", "rejected")


class Pair(NamedTuple):
    """A conversation, the answer to it that was preferred, the other one, and by how much; None: nobody says."""

    messages: Messages
    chosen: str
    rejected: str
    margin: float | None


def pair_of(row: dict[str, Any], continue_final_message: bool, place: str) -> Pair:
    """Return the pair of a row in one of TRL's preference formats.

    `chosen` and `rejected` are texts or lists of messages, whose last is the assistant's answer; before it may stand
    the prompt's own messages. The prompt stands in `prompt` or `messages`, as in a prompt set (conversation_of), or it
    is what both begin with alike. Raises PipelineError, starting with `place`, for whatever else.
    Source: TRL's dataset_formats.md, and extract_prompt in its trl/data_utils.py. There a prompt that is not written
    out ends where the first character differs; here before the word with that character.
    """
    missing = [name for name in ANSWERS if is_absent(row.get(name))]
    if missing and not is_absent(row.get("responses")):
        raise PipelineError(f"{place}: not decided; `ppo-pipeline judge` has a person choose one of the `responses`.")
    if missing:
        hint = "" if missing[0] in row else next((h for name in row if (h := nearest(name, missing))), "")
        raise PipelineError(f"{place}: empty answer: `{missing[0]}` has no value.{hint}")
    if row["chosen"] == row["rejected"]:
        raise PipelineError(f"{place}: equal answers; remove the pair.")
    if is_absent(row.get("prompt")) and is_absent(row.get("messages")):
        row = row | _parted(row["chosen"], row["rejected"], place)
    messages = conversation_of(row, continue_final_message, place)
    chosen, rejected = (_answer(row[name], messages, name, place) for name in ANSWERS)
    if chosen == rejected:
        raise PipelineError(f"{place}: equal answers; remove the pair.")
    return Pair(messages, chosen, rejected, _margin(row.get("margin"), place))


def is_tie(row: dict[str, Any], place: str) -> bool:
    """Tell whether a person found both `responses` of a row equally good: `tie` is true, and no answer is chosen."""
    try:
        return truth(row.get("tie")) and all(is_absent(row.get(name)) for name in ANSWERS)
    except ValueError as error:
        raise PipelineError(f"{place}: `tie` {error}.") from None


def is_absent(value: Any) -> bool:
    """Tell whether a cell holds nothing."""
    return value is None or value in ("", []) or (isinstance(value, float) and value != value)


def _parted(chosen: Any, rejected: Any, place: str) -> dict[str, Any]:
    """Return the prompt that both begin with, and what is left of each."""
    if type(chosen) is not type(rejected) or not isinstance(chosen, (str, list)):
        raise PipelineError(f"{place}: `chosen` and `rejected` must both be texts, or both lists of messages.")
    shorter = min(len(chosen), len(rejected))
    alike = (i for i in range(shorter) if chosen[i] != rejected[i])
    end = next(alike, shorter)
    end = _before_word(chosen, rejected, end) if isinstance(chosen, str) else min(end, shorter - 1)
    if not end or (isinstance(chosen, str) and not chosen[:end].strip()):
        raise PipelineError(
            f"{place}: no `prompt`, and nothing that `chosen` and `rejected` begin with alike; write the prompt out."
        )
    return {"prompt": chosen[:end], "chosen": chosen[end:], "rejected": rejected[end:]}


def _before_word(chosen: str, rejected: str, end: int) -> int:
    """Return where the word begins in which two texts part at `end`, with the space before it.

    Words are of digits and letters that have a capital: of a script without words each character is one.
    """
    if any(map(_in_word, (chosen[end : end + 1], rejected[end : end + 1]))):
        while end and _in_word(chosen[end - 1]):
            end -= 1
    return end - 1 if end and chosen[end - 1] == " " else end


def _in_word(character: str) -> bool:
    return character.isdigit() or character.lower() != character.upper()


def _answer(value: Any, messages: Messages, name: str, place: str) -> str:
    """Return the answer's text; `messages` may stand before it."""
    if isinstance(value, list):
        *before, last = value
        if not isinstance(last, dict) or last.get("role") != "assistant":
            raise PipelineError(f"{place}: the last message of `{name}` must be the assistant's.")
        if before and [message_of(message, f"{place}: `{name}`") for message in before] != messages:
            raise PipelineError(f"{place}: `{name}` has other messages before its last than the prompt.")
        return message_of(last, f"{place}: `{name}`", "answer")["content"]
    if not isinstance(value, str):
        raise PipelineError(f"{place}: `{name}` must be a text or a list of messages, found {value!r:.60}.")
    if not value.strip():
        raise PipelineError(f"{place}: empty answer: `{name}` is {value!r:.20}.")
    return value


def _margin(value: Any, place: str) -> float | None:
    if is_absent(value):
        return None
    try:
        number = float(value) if isinstance(value, (str, int, float, Decimal)) and not isinstance(value, bool) else -1.0
    except (ValueError, OverflowError):
        number = -1.0
    if not 0 <= number < float("inf"):
        raise PipelineError(f"{place}: `margin` must be a number of 0 or more, found {value!r:.60}.")
    return number
