"""An estimator from outside: one file more in the folder, or a function registered at run time, is all it takes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_letter_prompts
from dvc_project import ProjectCopy
from ruamel.yaml import YAML
from stage_runs import REPOSITORY, Stages

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.maths.estimators import registry
from ppo_pipeline.maths.estimators.registry import estimator, estimators
from ppo_pipeline.settings.params import load_params

COMMITTED = ["dr_grpo", "gae", "grpo", "reinforce++", "reinforce++_baseline", "rloo", "spo"]
ABOUT = "the response's reward less the round's mean"
FILE = f'''
import numpy as np

from ..groups import sums_by_sequence
from .registry import Estimated, Floats, Integers, estimator


@estimator("round-mean", about="{ABOUT}", samples=2, per_response=True)
def round_mean(rewards: Floats, lengths: Integers) -> Estimated:
    """Return R_i - mean of all R_j at each token."""
    sums = sums_by_sequence(rewards, lengths)
    return Estimated(np.repeat(sums - sums.mean(), lengths), None)
'''


def change(params: Any, **more: Any) -> None:
    params["advantage"].update(estimator="round-mean", whiten_advantages="none", kl_coef=0.0, **more)
    params["policy"]["critic"] = "none"
    params["rollout"]["samples_per_prompt"] = 2


def round_mean(rewards: Any, lengths: Any, groups: Any) -> tuple[Any, None]:
    assert groups.shape == lengths.shape
    sums = np.add.reduceat(rewards, np.cumsum(lengths) - lengths)
    return np.repeat(sums - sums.mean(), lengths), None


@pytest.fixture
def registered() -> Iterator[None]:
    estimator("round-mean", about=ABOUT, samples=2, per_response=True)(round_mean)
    yield
    del registry._KNOWN["round-mean"]


@pytest.mark.usefixtures("registered")
def test_one_that_is_registered_at_run_time_runs_in_the_stage(tmp_path: Path) -> None:
    project = Stages(tmp_path, change)
    project.run("init")
    for stage in ("rollout", "reward", "reference", "advantage"):
        project.run(stage, "r001")
    scores = np.array(project.column("r001/rewards.parquet", "score"))
    found = project.column("r001/advantages.parquet", "advantages")
    assert [row[0] for row in found] == pytest.approx(scores - scores.mean(), abs=1e-6)
    assert all(len(set(row)) == 1 for row in found)
    assert project.column("r001/advantages.parquet", "returns") == [None] * len(scores)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("section", "setting", "value", "said"),
    [
        ("rollout", "samples_per_prompt", 1, "round-mean compares the responses to a prompt"),
        ("advantage", "whiten_advantages", "response", "round-mean gives all tokens of a response one advantage"),
        ("advantage", "estimator", "gae", "advantage.estimator gae needs values"),
    ],
)
def test_what_it_declares_is_what_the_settings_check(
    tmp_path: Path, section: str, setting: str, value: Any, said: str
) -> None:
    params = YAML().load(REPOSITORY / "params.yaml")
    change(params)
    YAML().dump(params, tmp_path / "params.yaml")
    load_params(tmp_path / "params.yaml")
    params[section][setting] = value
    YAML().dump(params, tmp_path / "params.yaml")
    with pytest.raises(PipelineError, match=said):
        load_params(tmp_path / "params.yaml")


def test_a_file_in_the_folder_is_found_and_is_the_code_of_advantage_alone(tmp_path: Path) -> None:
    """In a copy of the project, by its real commands."""
    project = ProjectCopy(tmp_path)
    (tmp_path / "data/prompts").mkdir(parents=True)
    write_letter_prompts(tmp_path, "abcd")
    stages = [sys.executable, "-m", "stages"]

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        return subprocess.run(
            [*stages, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    assert run("code").returncode == 0
    before = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "data/code").glob("*.json")}
    project.change("advantage.estimator", "round-mean")
    project.change("policy.critic", "none")
    project.change("advantage.whiten_advantages", "none")
    unknown = run("settings")
    assert unknown.returncode == 1
    assert f"advantage.estimator: must be one of {', '.join(COMMITTED)}, found 'round-mean'" in unknown.stderr
    (tmp_path / "ppo_pipeline/maths/estimators/round_mean.py").write_text(FILE)
    said = run("settings").stderr
    assert "round-mean compares the responses to a prompt; set rollout.samples_per_prompt to 2 or more" in said
    project.change("rollout.samples_per_prompt", 2)
    assert run("settings").returncode == 0
    assert run("code").returncode == 0
    after = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "data/code").glob("*.json")}
    assert {stage for stage in before if before[stage] != after[stage]} == {"advantage"}
    program = "from ppo_pipeline.settings.estimators import OneOfThem; print(OneOfThem.meanings())"
    told = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"round-mean: {ABOUT}" in told.stdout


def test_the_committed_ones_say_what_they_need() -> None:
    known = estimators()
    assert list(known) == COMMITTED
    assert [name for name, each in known.items() if each.needs_values] == ["gae"]
    by_group = ["dr_grpo", "grpo", "reinforce++_baseline", "rloo"]
    assert [name for name, each in known.items() if each.per_response] == [*by_group, "spo"]
    assert [name for name, each in known.items() if each.samples == 2] == by_group
    assert {name: each.whiten for name, each in known.items() if each.whiten} == {
        "dr_grpo": "none",
        "reinforce++": "round",
        "reinforce++_baseline": "round",
        "spo": "round",
    }
