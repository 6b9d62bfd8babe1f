"""A pair as a person judges it: two answers in an order that tells nothing, and the row that a choice makes of it."""

from pathlib import Path
from typing import Any, NamedTuple

from ..errors import PipelineError
from ..prompts.conversations import Messages
from ..prompts.files import KINDS, NAMED, rows_of
from ..prompts.preference_rows import is_absent, is_tie, pair_of
from ..prompts.sources import digest_of

DECIDED = ("prompt", "messages", "responses", "chosen", "rejected", "margin", "by", "tie", "shown")


class JudgedPair(NamedTuple):
    """One pair. answers: in the row's order; first: which of them, 0 or 1, is shown first; row: as the file has it."""

    pair_id: str
    messages: Messages
    answers: tuple[str, str]
    first: int
    row: dict[str, Any]

    @property
    def shown(self) -> tuple[str, str]:
        """The answers as they are shown, 1 and 2."""
        return self.answers[self.first], self.answers[1 - self.first]

    def choose(self, choice: str) -> dict[str, Any]:
        """Return the row of a choice: 1 or 2, or tie.

        Lists of two, which name where each answer came from and its scores, begin with the chosen answer's. `shown` is
        the place at which it was shown. A tie keeps both answers as `responses`.
        """
        more = {name: value for name, value in self.row.items() if name not in (*DECIDED, "pair_id")}
        head = {"pair_id": self.pair_id, "prompt": self.messages}
        if choice == "tie":
            return head | {"responses": list(self.answers), "tie": True} | more
        chosen = self.first if choice == "1" else 1 - self.first
        for name in ("rounds", "sample_ids", "scores"):
            if name in more:
                more[name] = _chosen_first(more[name], chosen)
        texts = {"chosen": self.answers[chosen], "rejected": self.answers[1 - chosen]}
        return head | texts | more | {"shown": int(choice)}


def _chosen_first(value: Any, chosen: int) -> Any:
    if isinstance(value, dict):
        return {name: _chosen_first(each, chosen) for name, each in value.items()}
    return [value[chosen], value[1 - chosen]] if isinstance(value, list) and len(value) == 2 else value


def pairs_in(path: Path) -> list[JudgedPair]:
    """Return the pairs of a file, each once: rows with a prompt and two `responses`, or with `chosen` and `rejected`.

    Raises PipelineError that names file and row for what is no such pair.
    """
    if not path.name.lower().endswith(KINDS):
        raise PipelineError(f"{path}: not a {NAMED} file.")
    found: dict[str, JudgedPair] = {}
    for number, row in rows_of(path):
        pair = _pair(row, f"{path}, row {number}")
        found.setdefault(pair.pair_id, pair)
    return [*found.values()]


def _pair(row: dict[str, Any], place: str) -> JudgedPair:
    responses = row.get("responses")
    if is_tie(row, place) or is_absent(row.get("chosen")):
        if not isinstance(responses, list) or len(responses) != 2:
            raise PipelineError(f"{place}: neither `chosen` and `rejected` nor two `responses`.")
        row = row | {"chosen": responses[0], "rejected": responses[1]}
    pair = pair_of(row, True, place)
    texts = pair.chosen, pair.rejected
    digest = digest_of([pair.messages, *sorted(texts)], place)
    ahead = sorted(texts)[int(digest[-1], 16) % 2]  # by the texts alone: not by which of them the file has first
    given = row.get("pair_id")
    return JudgedPair(digest[:12] if is_absent(given) else str(given), pair.messages, texts, texts.index(ahead), row)
