"""The memory of prompts in real stages: handed on by rounds, parted by branches, used by spo and rollout."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from stage_runs import Stages, right_up_to

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.project.sealing.older import refuse_parents_without_memory
from ppo_pipeline.settings.params import load_params
from ppo_pipeline.tables.prompt_scores import PROMPT_SCORES
from stages.__main__ import main

DISCOUNT = 0.5


def change(params: Any) -> None:
    params["policy"]["critic"] = "none"
    params["advantage"].update(estimator="spo", memory_discount=DISCOUNT, kl_coef=0.05)
    params["rollout"]["prompt_choice"] = "informative"
    right_up_to(params, 5)
    params["rounds"] = {
        "r001": {"parent": "r000"}, "r002": {"parent": "r001"}, "b": {"parent": "r001", "seed": 5},
    }  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    made = Stages(tmp_path_factory.mktemp("memory"), change)
    made.run("init")
    for name in ("r001", "r002", "b"):
        for stage in ("rollout", "reward", "reference", "advantage", "update"):
            made.run(stage, name)
    return made


def responses(project: Stages, name: str) -> dict[str, list[float]]:
    """Return the summed token rewards of each prompt's responses."""
    found = defaultdict(list)
    rewards = project.column(f"{name}/advantages.parquet", "token_rewards")
    for prompt_id, row in zip(project.column(f"{name}/rollouts.parquet", "prompt_id"), rewards, strict=True):
        found[prompt_id].append(sum(row))
    return found


def memory(project: Stages, name: str) -> dict[str, dict[str, Any]]:
    table = PROMPT_SCORES.read(project.path(f"{name}/prompt_scores.parquet"))
    return {row["prompt_id"]: row for row in table.to_pylist()}


@pytest.mark.parametrize("name", ["r002", "b"])
def test_a_round_goes_on_from_its_parent_s(project: Stages, name: str) -> None:
    before, now, found = memory(project, "r001"), responses(project, name), memory(project, name)
    assert memory(project, "r000") == {}
    assert found.keys() == before.keys() | now.keys() and before.keys() & now.keys()
    for prompt_id, row in found.items():
        if prompt_id not in now:
            assert row == before[prompt_id]
            continue
        old = before.get(prompt_id, {"samples": 0, "weight": 0.0, "reward_mean": 0.0})
        weight = DISCOUNT * old["weight"] + 2
        mean = (DISCOUNT * old["weight"] * old["reward_mean"] + sum(now[prompt_id])) / weight
        assert (row["samples"], row["depth"]) == (old["samples"] + 2, 2)
        assert (row["weight"], row["judged"]) == pytest.approx((weight, weight))
        assert row["reward_mean"] == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("name", ["r001", "r002"])
def test_spo_s_advantages_are_a_slow_loop_s(project: Stages, name: str) -> None:
    before = memory(project, "r000" if name == "r001" else "r001")
    prompt_ids = project.column(f"{name}/rollouts.parquet", "prompt_id")
    rewards = project.column(f"{name}/advantages.parquet", "token_rewards")
    mean = np.mean([sum(row) for row in rewards])
    tokens = []
    for prompt_id, row in zip(prompt_ids, rewards, strict=True):
        baseline = before[prompt_id]["reward_mean"] if prompt_id in before else mean
        tokens += [sum(row) - baseline] * len(row)
    expected = (np.array(tokens) - np.mean(tokens)) / np.sqrt(np.var(tokens, ddof=1) + 1e-8)
    found = np.concatenate(project.column(f"{name}/advantages.parquet", "advantages"))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert project.metrics(name)["val/remembered"] == np.mean([p in before for p in prompt_ids])


def test_right_answers_are_counted(project: Stages) -> None:
    prompt_ids = project.column("r001/rollouts.parquet", "prompt_id")
    right = project.column("r001/rewards.parquet", "correct")
    assert {*right} == {True, False}
    for prompt_id, row in memory(project, "r001").items():
        assert row["right"] == sum(r for p, r in zip(prompt_ids, right, strict=True) if p == prompt_id)


def test_a_sealed_parent_of_a_version_without_a_memory_is_told(
    project: Stages, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(project.folder)
    text = Path("params.yaml").read_text()
    rounds = text[text.index("\nrounds:") :]
    Path("params.yaml").write_text(text.replace(rounds, "\nrounds:\n  r002: {parent: r001}\n"))
    Path("sealed").mkdir()
    Path("sealed/rounds.yaml").write_text("r001: {parent: r000}\n")
    refuse_parents_without_memory(load_params())
    project.path("r001/prompt_scores.parquet").rename(tmp_path / "memory")
    result = CliRunner().invoke(main, ["settings"])
    with pytest.raises(PipelineError, match=r"r001/prompt_scores\.parquet: no such file, from which r002 starts"):
        refuse_parents_without_memory(load_params())
    (tmp_path / "memory").rename(project.path("r001/prompt_scores.parquet"))
    assert result.exit_code == 1 and "Copy data/rounds/r000/prompt_scores.parquet there" in result.output
