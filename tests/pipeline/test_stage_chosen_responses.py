"""Terms of the loss that are of some responses, in real stages: what the first step tells follows from the tables."""

import math
from pathlib import Path
from typing import Any

import pytest
from stage_runs import Stages, right_up_to

ENDS = [*"abcdefghijklmnopqrstuvwxyz0123456789"]
COLUMNS = {
    "policy_logprobs": "reference", "advantages": "advantages", "finish_reason": "rollouts", "correct": "rewards",
}  # fmt: skip


def change(params: Any) -> None:
    params["policy"]["critic"] = "none"
    params["advantage"].update(estimator="reinforce++", whiten_advantages="round")
    params["rollout"].update(temperature=1.0, max_new_tokens=4, stop_tokens=ENDS)
    right_up_to(params, 1)
    params["update"].update(epochs=1, minibatches=1)
    own = {"mask_truncated": True, "likelihood_coef": 0.5}
    params["rounds"] = {
        "r001": {"parent": "r000"},
        "r002": {"parent": "r000", "update": own},
        "r003": {"parent": "r000", "update": {**own, "policy_loss": "cispo", "mask_truncated": False}},
    }


def test_the_first_step_s_terms_are_means_over_the_tables_tokens(tmp_path: Path) -> None:
    project = Stages(tmp_path, change)
    project.run("init")
    for name in ("r001", "r002", "r003"):
        for stage in ("rollout", "reward", "reference", "advantage", "update"):
            project.run(stage, name)
        columns = [project.column(f"{name}/{table}.parquet", column) for column, table in COLUMNS.items()]
        losses, likely, count = [], [], 0
        for logprobs, advantages, reason, correct in zip(*columns, strict=True):
            count += len(logprobs)
            if reason == "stop" or name != "r002":
                by = logprobs if name == "r003" else [1.0] * len(logprobs)
                losses += [-a * p for a, p in zip(advantages, by, strict=True)]
                likely += [-p for p in logprobs] if correct else []
        assert 3 <= len(likely) < len(losses) <= count
        metrics, told = project.metrics(name), project.column(f"{name}/advantages.parquet", "correct")
        assert metrics["loss/policy"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)
        assert metrics["policy/clipfrac"] == 0 and metrics["val/ratio_first"] == pytest.approx(1)
        found = {key: metrics.get(key) for key in ("loss/likelihood", "policy/right_tokens", "policy/truncated_masked")}
        if name == "r001":
            assert found == dict.fromkeys(found) and told == [None] * len(told)
            continue
        assert (told == columns[3] and len(losses) < count) or name == "r003"
        assert found == {
            "loss/likelihood": pytest.approx(math.fsum(likely) / len(likely), rel=1e-4),
            "policy/right_tokens": pytest.approx(len(likely) / count),
            "policy/truncated_masked": pytest.approx(1 - len(losses) / count) if name == "r002" else None,
        }
