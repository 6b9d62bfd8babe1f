"""A rollout correction in real stages, under truncated sampling: its metrics and loss follow from the tables."""

import math
from pathlib import Path
from typing import Any

import pytest
from stage_runs import Stages

LOW, HIGH = 0.88, 1.05
BOUNDS = {"rollout_correction_min": LOW, "rollout_correction_max": HIGH}
FORMS = {"r001": "token_mask", "r002": "sequence_truncate"}
COLUMNS = {
    "policy_logprobs": "reference", "rollout_logprobs": "rollouts", "kept_mass": "rollouts", "advantages": "advantages",
}  # fmt: skip


def change(params: Any) -> None:
    params["policy"]["critic"] = "none"
    params["advantage"].update(estimator="reinforce++", whiten_advantages="round")
    params["rollout"].update(top_p=0.7, temperature=0.1)
    params["update"].update(epochs=1, minibatches=1)
    params["rounds"] = {"r003": {"parent": "r000"}} | {
        name: {"parent": "r000", "update": {"rollout_correction": form, **BOUNDS}} for name, form in FORMS.items()
    }


def test_the_first_step_s_loss_is_the_weighted_advantage_by_the_tables(tmp_path: Path) -> None:
    project = Stages(tmp_path, change)
    project.run("init")
    for name in ("r001", "r002", "r003"):
        for stage in ("rollout", "reward", "reference", "advantage"):
            project.run(stage, name)
        output = project.run("update", name)
        columns = [project.column(f"{name}/{table}.parquet", column) for column, table in COLUMNS.items()]
        weights, losses, cut = [], [], 0
        for policy, sampler, kept, advantages in zip(*columns, strict=True):
            ratios = [math.exp(p) / (math.exp(s) / k) for p, s, k in zip(policy, sampler, kept, strict=True)]
            product = math.prod(ratios)
            for ratio, advantage in zip(ratios, advantages, strict=True):
                if name == "r001":
                    weights.append(ratio if LOW <= ratio <= HIGH else 0.0)
                    cut += not LOW <= ratio <= HIGH
                elif name == "r002":
                    weights.append(min(max(product, LOW), HIGH))
                    cut += not LOW <= product <= HIGH
                else:
                    weights.append(1.0)
                losses.append(-weights[-1] * advantage)
        metrics = project.metrics(name)
        assert metrics["loss/policy"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)
        found = {key: value for key, value in metrics.items() if "correction" in key}
        assert ("correction cut" in output) == bool(found) == (name in FORMS)
        if found:
            mean, share = sum(weights) / len(weights), cut / len(weights)
            assert found == pytest.approx({"policy/correction_mean": mean, "policy/correction_cut": share}, rel=1e-4)
            assert 0 < share < 1 and abs(sum(losses) / len(losses)) > 1e-3
