"""What a reward function is given, and what counts as a reward."""

from dataclasses import dataclass
from typing import Any

from ..errors import PipelineError, nearest
from ..prompts.column_kinds import columns_told

LARGEST = (2 - 2.0**-23) * 2.0**127  # of 32-bit floats
NUMBER = "finite number that a 32-bit float holds (at most 3.4e38)"


@dataclass(frozen=True)
class Samples:
    """Responses to score, one entry per sample in each list.

    messages: the conversation that was answered. prompt_texts: the same as the model saw it.
    response_ids: token ids of the responses, the stop token included.
    columns: the prompts' further columns (answers among them), repeated for each sample.
    """

    sample_ids: list[str]
    messages: list[list[dict[str, str]]]
    prompt_texts: list[str]
    responses: list[str]
    response_ids: list[list[int]]
    columns: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(self.sample_ids)


class MissingColumn(PipelineError):
    """A reward reads a column that the prompts have not; `column` is its name, `known` those that there are."""

    def __init__(self, where: str, column: str, known: dict[str, list[Any]]) -> None:
        close = nearest(column, list(known))
        super().__init__(f"{where}: the prompts have no column '{column}'.{close} They have: {columns_told(known)}.")
        self.column = column


def is_reward(value: Any) -> bool:
    """Tell a finite number that a 32-bit float holds, as those of advantages.parquet are; a truth value is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST


def shown(value: Any) -> str:
    """Return the beginning of a value's repr, or its type where it has none, as an integer of 5000 digits."""
    try:
        return f"{value!r:.60}"
    except Exception:  # of a user's own object: anything
        return f"a value of type {type(value).__name__}"
