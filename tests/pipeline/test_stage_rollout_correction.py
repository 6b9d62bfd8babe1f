"""A rollout correction in real stages, under truncated sampling: its metrics and loss follow from the tables."""

import math
from pathlib import Path
from typing import Any

import pytest
from stage_runs import Stages

LOW, HIGH = 0.3, 1.05


def change(params: Any) -> None:
    params["policy"]["critic"] = "none"
    params["advantage"].update(estimator="rloo", whiten_advantages="none")
    params["rollout"]["top_p"] = 0.7
    params["update"].update(epochs=1, minibatches=1)
    first = {"rollout_correction": "token_mask", "rollout_correction_max": HIGH, "rollout_correction_min": LOW}
    second = {"rollout_correction": "sequence_truncate", "rollout_correction_max": HIGH}
    params["rounds"] = {
        "r001": {"parent": "r000", "update": first},
        "r002": {"parent": "r000", "update": second},
        "r003": {"parent": "r000"},
    }


def test_the_first_step_s_loss_is_the_weighted_advantage_by_the_tables(tmp_path: Path) -> None:
    project = Stages(tmp_path, change)
    project.run("init")
    for name in ("r001", "r002", "r003"):
        for stage in ("rollout", "reward", "reference", "advantage"):
            project.run(stage, name)
        output = project.run("update", name)
        columns = [
            project.column(f"{name}/{table}.parquet", column)
            for table, column in (
                ("reference", "policy_logprobs"), ("rollouts", "rollout_logprobs"), ("rollouts", "kept_mass"),
                ("advantages", "advantages"),
            )
        ]  # fmt: skip
        weights, cut, loss = [], 0, 0.0
        for policy, sampler, kept, advantages in zip(*columns, strict=True):
            ratios = [math.exp(p) / (math.exp(s) / k) for p, s, k in zip(policy, sampler, kept, strict=True)]
            of_response = {"r001": ratios, "r002": [math.prod(ratios)] * len(ratios), "r003": [1.0] * len(ratios)}[name]
            for ratio, advantage in zip(of_response, advantages, strict=True):
                inside = (LOW if name == "r001" else 0) <= ratio <= HIGH
                weights.append(ratio if inside else {"r001": 0.0, "r002": HIGH}[name])
                cut += not inside
                loss -= weights[-1] * advantage
        metrics = project.metrics(name)
        assert min(k for row in columns[2] for k in row) < 0.9, "sampling was truncated"
        assert metrics["loss/policy"] == pytest.approx(loss / len(weights), rel=1e-4) and abs(loss) > 1e-3
        found = {key: value for key, value in metrics.items() if "correction" in key}
        expected = {
            "policy/correction_mean": sum(weights) / len(weights), "policy/correction_cut": cut / len(weights),
        }  # fmt: skip
        assert found == (pytest.approx(expected, rel=1e-4) if name != "r003" else {})
        assert ("correction cut" in output) == (name != "r003")
