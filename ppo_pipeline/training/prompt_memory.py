"""What is remembered of each prompt from round to round: running means of its responses' rewards and right answers."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..maths.forgetting import forgetting_mean
from ..tables.prompt_scores import PROMPT_SCORES

UNSEEN: dict[str, Any] = {"samples": 0, "weight": 0.0, "reward_mean": 0.0, "judged": 0.0, "right": 0.0}


def remembered(memory: pa.Table, prompt_ids: list[str]) -> NDArray[np.float64]:
    """Return the mean reward of each response's prompt (N,) before the round, NaN for one that is new."""
    known = dict(zip(memory.column("prompt_id").to_pylist(), memory.column("reward_mean").to_pylist(), strict=True))
    return np.array([known.get(prompt_id, np.nan) for prompt_id in prompt_ids], dtype=np.float64)


def updated(
    memory: pa.Table,
    prompt_ids: list[str],
    rewards: NDArray[np.floating],
    correct: list[bool] | None,
    depth: int,
    discount: float,
) -> pa.Table:
    """Return the memory after a round, in the order of prompt ids.

    prompt_ids, rewards, correct: of each response (N,); correct: whether it is right, None where nobody says.
    discount: what was remembered of a prompt counts by this factor when the prompt is sampled again.
    """
    rows = {row["prompt_id"]: row for row in memory.to_pylist()}
    places: dict[str, list[int]] = {}
    for place, prompt_id in enumerate(prompt_ids):
        places.setdefault(prompt_id, []).append(place)
    for prompt_id, mine in places.items():
        before, count = rows.get(prompt_id, UNSEEN), len(mine)
        mean, weight = forgetting_mean(
            before["reward_mean"], before["weight"], float(rewards[mine].sum()), count, discount
        )
        judged, right = before["judged"], before["right"]
        if correct is not None:
            judged = discount * judged + count
            right = discount * right + sum(correct[place] for place in mine)
        rows[prompt_id] = {
            "prompt_id": prompt_id, "samples": before["samples"] + count, "weight": weight, "reward_mean": mean,
            "judged": judged, "right": right, "depth": depth,
        }  # fmt: skip
    return pa.Table.from_pylist([rows[prompt_id] for prompt_id in sorted(rows)], schema=PROMPT_SCORES.arrow)
