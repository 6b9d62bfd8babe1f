"""What a reward function is given, and what counts as a reward."""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Samples:
    """Responses to score, one entry per sample in each list.

    messages: the conversation that was answered. prompt_texts: the same as the model saw it.
    response_ids: token ids of the responses, the stop token included.
    columns: the prompts' further columns (`expected` among them), repeated for each sample.
    """

    sample_ids: list[str]
    messages: list[list[dict[str, str]]]
    prompt_texts: list[str]
    responses: list[str]
    response_ids: list[list[int]]
    columns: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(self.sample_ids)


def is_reward(value: Any) -> bool:
    """Tell a finite number; a truth value is none."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floats
        return False
