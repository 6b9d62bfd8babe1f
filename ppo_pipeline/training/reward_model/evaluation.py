"""What a reward model, or an ensemble, says of held-out pairs: its table and its metrics."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ...maths.preference_metrics import agreement, brier_score, by_length, calibration_error, clustered_error
from .inputs import Asked

Floats = NDArray[np.float64]


def heldout_table(pairs: pa.Table, asked: Asked, rewards: Floats) -> pa.Table:
    """Return the columns of tables/reward_model_eval.py. pairs: the held-out ones. rewards: (members, 2, N)."""
    kept = pairs.take(pa.array(asked.rows, pa.int64()))
    columns: dict[str, Any] = {n: kept.column(n) for n in ("pair_id", "prompt_id", "messages", "chosen", "rejected")}
    for name, ids in (("chosen", asked.chosen), ("rejected", asked.rejected)):
        columns[f"{name}_tokens"] = pa.array([len(text) for text in ids], pa.int32())
    for place, name in enumerate(("chosen", "rejected")):
        columns[f"{name}_reward"] = rewards[:, place].mean(0)
        columns[f"{name}_rewards"] = pa.array(rewards[:, place].T.tolist(), pa.list_(pa.float64()))
    return pa.table(columns)


def evaluation_metrics(rewards: Floats, prompt_ids: list[str], asked: Asked) -> dict[str, float]:
    """Return the metrics of held-out pairs; none without a pair.

    rewards: (members, 2, N). eval/...: of the model, of an ensemble's mean; there eval_worst/... too, of the lowest
    reward, eval_1/... of each member, and eval/std, the members' standard deviation, its mean over answers.
    """
    if not rewards.shape[2]:
        return {}
    groups = np.unique(prompt_ids, return_inverse=True)[1]
    longer = np.array([len(c) - len(r) for c, r in zip(asked.chosen, asked.rejected, strict=True)])
    views = {"eval": rewards.mean(0)}
    found: dict[str, float] = {}
    if len(rewards) > 1:
        views |= {"eval_worst": rewards.min(0), **{f"eval_{k}": one for k, one in enumerate(rewards, 1)}}
        found["eval/std"] = float(rewards.std(0).mean())
    for name, view in views.items():
        found |= {f"{name}/{metric}": number for metric, number in pair_metrics(view, longer, groups).items()}
    return found


def pair_metrics(rewards: Floats, longer: NDArray[np.integer], groups: NDArray[np.integer]) -> dict[str, float]:
    """Return accuracy, loss, calibration and what length has to do with them. rewards: (2, N), chosen and rejected.

    longer, groups: (N,), as in maths/preference_metrics.py.
    """
    differences = rewards[0] - rewards[1]
    right = agreement(differences)
    found = {"pairs": len(right), "accuracy": float(right.mean())}
    error = clustered_error(right, groups)
    found |= {} if error is None else {"accuracy_se": error}
    return found | {
        "loss": float(np.logaddexp(0, -differences).mean()),
        "brier": brier_score(differences),
        "calibration_error": calibration_error(differences),
        "margin": float(differences.mean()),
        "mean_reward": float(rewards.mean()),
        "std_reward": float(rewards.std()),
        **by_length(differences, longer),
    }
