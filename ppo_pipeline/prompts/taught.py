"""Demonstrations as token ids, with the places of the tokens that are learnt: the assistant's answers and their ends.

An answer is what the model's own template writes behind the very prompt that the policy is shown in sampling. No
template is asked where an answer stands in it: each prompt is rendered by itself, and must be what the conversation
with the answer begins with.
"""

from typing import Any, NamedTuple

from ..errors import PipelineError
from .demonstrations import Demonstration
from .rendering import Renderer


class TaughtRow(NamedTuple):
    """ids: of a conversation. spans: where in them answers begin and end; name: of the row that it is of."""

    name: str
    ids: list[int]
    spans: list[tuple[int, int]]

    @property
    def taught(self) -> int:
        """Tokens that are learnt."""
        return sum(end - start for start, end in self.spans)


class Ends:
    """The tokens that end a response, as sampling has them; tokenizer: for the words of an error."""

    def __init__(self, ids: list[int], tokenizer: Any) -> None:
        self.ids, self._tokenizer = set(ids), tokenizer

    def behind(self, answer: list[int], name: str) -> int:
        """Return how many tokens of an answer there are up to the last one that ends it, that one included.

        What a template writes behind it, mostly a new line, no policy ever samples.
        """
        last = next((i for i in range(len(answer), 0, -1) if answer[i - 1] in self.ids), 0)
        if not last:
            ends, found = (self._tokenizer.decode(ids) for ids in (sorted(self.ids), answer[-3:]))
            raise PipelineError(
                f"{name}: the answer ends in {found!r}, and the model's end tokens are {ends!r}, so that it would "
                "never learn to stop. Name the token that ends an answer in rollout.stop_tokens, or set "
                "prompts.chat_template to plain."
            )
        return last


def taught_rows(rows: list[Demonstration], renderer: Renderer, ends: Ends) -> list[TaughtRow]:
    """Return each conversation with all its answers; in several parts where the template writes earlier turns anew.

    Templates of thinking models leave out of earlier turns what was thought; such a part then has one answer, or
    those that stand in it as they were given. Raises PipelineError, with the row's name, where a prompt alone is not
    what the conversation begins with.
    """
    turns = [(row, i) for row in rows for i in row.turns]
    names = [row.name if len(row.turns) == 1 else f"{row.name}, message {i + 1}" for row, i in turns]
    prompts, prompt_ids = renderer.texts_and_ids([row.messages[:i] for row, i in turns], names)
    wholes, whole_ids = renderer.texts_and_ids([row.messages[: i + 1] for row, i in turns], names, closed=True)
    found: list[TaughtRow] = []
    owner: Demonstration | None = None
    for (row, i), name, prompt, whole, before, ids in zip(
        turns, names, prompts, wholes, prompt_ids, whole_ids, strict=True
    ):
        _check_begins(name, prompt, whole, before, ids)
        _check_kept(name, whole[len(prompt) :], row.messages[i]["content"])
        span = (len(before), len(before) + ends.behind(ids[len(before) :], name))
        last = found[-1] if row is owner else None
        if last is not None and ids[: len(last.ids)] == last.ids:
            found[-1] = TaughtRow(row.name, ids[: span[1]], [*last.spans, span])
        else:
            found.append(TaughtRow(row.name, ids[: span[1]], [span]))
        owner = row
    return found


def _check_begins(name: str, prompt: str, whole: str, before: list[int], ids: list[int]) -> None:
    """Raise PipelineError unless text and tokens of the prompt are what those of the whole begin with."""
    if not whole.startswith(prompt):
        raise PipelineError(
            f"{name}: the model's chat template writes a prompt otherwise where the answer follows: {prompt[-40:]!r} "
            f"is then {whole[max(0, len(prompt) - 40) :][:80]!r}. Set prompts.chat_template to plain, or give the base "
            "a template that writes both alike."
        )
    if not before or ids[: len(before)] != before:
        raise PipelineError(
            f"{name}: the tokenizer joins the prompt's end {prompt[-20:]!r} with the answer's beginning "
            f"{whole[len(prompt) :][:20]!r} in one token, which the policy could never sample; let the answer begin "
            "otherwise, such as with a space or without one."
        )


def _check_kept(name: str, written: str, content: str) -> None:
    """Raise PipelineError where a template leaves out a part of an answer, such as what was thought before it."""
    if "".join(content.split()) not in "".join(written.split()):
        raise PipelineError(
            f"{name}: the model's chat template leaves out or changes a part of the answer {content[:60]!r}: it writes "
            f"{written[:60]!r}. Set prompts.chat_template to plain, or the answer to what is to be learnt."
        )
