"""The samples that the page shows: which ones, their table, and their texts stored once."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..tables.evaluation import EVALUATION
from ..tables.rewards import REWARDS
from .conversations import Turn, asked
from .distributions import rounded
from .round_data import RoundData

MOST_SAMPLES, MOST_TOKENS = 5_000, 1_000_000  # in all, where the user sets no limit
FEWEST_ANSWERS = 20


class Texts:
    """Texts by number; each is stored once."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._numbers: dict[str, int] = {}

    def add(self, texts: list[str]) -> list[int]:
        """Return each text's number."""
        for text in texts:
            if text not in self._numbers:
                self._numbers[text] = len(self.all)
                self.all.append(text)
        return [self._numbers[text] for text in texts]

    def add_turns(self, turns: list[list[Turn]]) -> list[list[tuple[str, int]]]:
        """Return the conversations with each text's number in place of the text."""
        return [[(role, self.add([text])[0]) for role, text in each] for each in turns]


def row_limit(rounds: int) -> int:
    """Return how many samples of each of `rounds` rounds are shown at most, where the user does not say."""
    return max(1, MOST_SAMPLES // max(1, rounds))


def token_limit(rounds: list[RoundData]) -> int:
    """Return how many samples of each round make MOST_TOKENS tokens in all."""
    longest = sum(float(r.numbers["length"].mean()) for r in rounds if r.total)
    return max(1, int(MOST_TOKENS // max(1.0, longest)))


def sample_table(rounds: list[RoundData], texts: Texts) -> dict[str, Any]:
    """Return the shown samples of all rounds as columns; a number that is not known is null."""
    names = list(dict.fromkeys(name for r in rounds if r.rewards is not None for name in components(r.rewards)))
    table: dict[str, Any] = {"components": names, "scores": {name: [] for name in names}}
    columns = (
        "id",
        "round",
        "row",
        "prompt_id",
        "prompt",
        "turns",
        "full",
        "response",
        "score",
        "kl",
        "tokens",
        "finish",
    )
    table |= {column: [] for column in columns}
    for r in rounds:
        count = r.rollouts.num_rows
        table["id"] += r.rollouts.column("sample_id").to_pylist()
        table["round"] += [r.name] * count
        table["row"] += list(range(count))
        table["prompt_id"] += r.rollouts.column("prompt_id").to_pylist()
        table["prompt"] += texts.add([asked(turns) for turns in r.turns])
        table["turns"] += texts.add_turns(r.turns)
        table["full"] += texts.add(r.rollouts.column("prompt_text").to_pylist())
        table["response"] += r.rollouts.column("response_text").to_pylist()
        table["tokens"] += r.numbers["length"][:count].astype(int).tolist()
        table["finish"] += r.rollouts.column("finish_reason").to_pylist()
        for key in ("score", "kl"):
            table[key] += rounded(r.numbers[key][:count]) if key in r.numbers else [None] * count
        for name in names:
            table["scores"][name] += _scores(r.rewards, name, count)
    return table


def answer_table(evaluation: pa.Table, turns: list[list[Turn]], texts: Texts) -> dict[str, Any]:
    """Return held-out answers of one round as columns."""
    names = components(evaluation, len(EVALUATION.arrow))
    return {
        "prompt_id": evaluation.column("prompt_id").to_pylist(),
        "prompt": texts.add([asked(each) for each in turns]),
        "turns": texts.add_turns(turns),
        "response": evaluation.column("response_text").to_pylist(),
        "score": rounded(evaluation.column("score").to_numpy()),
        "tokens": pc.list_value_length(evaluation.column("response_ids")).to_pylist(),
        "finish": evaluation.column("finish_reason").to_pylist(),
        "scores": {name: _scores(evaluation, name, evaluation.num_rows) for name in names},
    }


def components(table: pa.Table, fixed: int = len(REWARDS.arrow)) -> list[str]:
    """Return the names of the reward components: the columns of numbers behind the `fixed` ones."""
    numeric = (pa.types.is_floating, pa.types.is_integer)
    return [f.name for k, f in enumerate(table.schema) if k >= fixed and any(is_kind(f.type) for is_kind in numeric)]


def _scores(table: pa.Table | None, name: str, count: int) -> list[float | None]:
    if table is None or name not in table.column_names:
        return [None] * count
    numbers = table.column(name).to_numpy().astype(np.float64)
    return [value if np.isfinite(value) else None for value in rounded(numbers)]
