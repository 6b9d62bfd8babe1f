"""The averaged policy through the stages: kept by `update`, answered with by `evaluate`, exported."""

import copy
import shutil
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from peft import PeftModel
from stage_runs import Stages
from transformers import AutoModelForCausalLM

from ppo_pipeline.cli.main import main

ROUNDS = {"r001": {"parent": "r000"}, "r002": {"parent": "r001"}, "r003": {"parent": "r002"}}


def trained(folder: Path, average_rounds: int) -> Stages:
    def change(params: Any) -> None:
        params["update"].update(average_rounds=average_rounds, lr=0.05)
        params["rounds"] = ROUNDS

    folder.mkdir()
    project = Stages(folder, change)
    project.run("init")
    for name in ROUNDS:
        project.round(name)
    return project


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> tuple[Stages, Stages]:
    folder = tmp_path_factory.mktemp("projects")
    return trained(folder / "with", 2), trained(folder / "without", 1)


def merged(project: Stages, folder: str) -> dict[str, torch.Tensor]:
    base = AutoModelForCausalLM.from_pretrained(project.folder / "data/base", dtype=torch.float32)
    return PeftModel.from_pretrained(base, project.path(folder)).merge_and_unload().state_dict()


def test_the_average_is_of_the_last_two_rounds_and_trains_nothing(projects: tuple[Stages, Stages]) -> None:
    project, without = projects
    one, two, found = (merged(project, path) for path in ("r002/policy", "r003/policy", "r003/average"))
    assert max((one[name] - two[name]).abs().max() for name in one) > 0.01
    for name, weight in found.items():
        torch.testing.assert_close(weight, (one[name] + two[name]) / 2, atol=2e-6, rtol=1e-5)
    files = [path.relative_to(project.path("")) for path in project.path("").rglob("*.*") if path.is_file()]
    for file in files:
        if file.parent.name != "average" and file.name != "earlier.safetensors":
            assert project.path(str(file)).read_bytes() == without.path(str(file)).read_bytes(), file
    assert {path.name for path in without.path("r003/average").iterdir()} == {"average.json"}
    assert not list(without.path("").rglob("earlier.safetensors"))


def test_it_is_evaluated_beside_the_policy(projects: tuple[Stages, Stages]) -> None:
    project, without = projects
    for name in ROUNDS:
        metrics, plain = project.metrics(name), without.metrics(name)
        other = {key: value for key, value in metrics.items() if key.startswith("eval_average/")}
        assert {key: value for key, value in metrics.items() if key not in other} == plain
        assert {key.replace("eval_average/", "eval/") for key in other} == {k for k in plain if k.startswith("eval/")}
        if name == "r001":  # the mean of one policy
            assert other == {key: plain[key.replace("eval_average/", "eval/")] for key in other}


def test_its_metrics_are_those_of_a_policy_that_it_is(projects: tuple[Stages, Stages], tmp_path: Path) -> None:
    """Moved to the policy's place, it is answered with as any policy."""
    metrics = projects[0].metrics("r003")
    moved = copy.copy(projects[1])
    moved.folder = tmp_path / "moved"
    shutil.copytree(projects[1].folder, moved.folder)
    shutil.rmtree(moved.path("r003/policy"))
    shutil.copytree(projects[0].path("r003/average"), moved.path("r003/policy"))
    moved.run("evaluate", "r003")
    found = {key: value for key, value in moved.metrics("r003").items() if key.startswith("eval/")}
    assert found == {key.replace("_average", ""): value for key, value in metrics.items() if "eval_average/" in key}


def test_it_is_exported_and_asked(projects: tuple[Stages, Stages], tmp_path: Path) -> None:
    project, without = projects

    def command(where: Stages, *arguments: str) -> Any:
        with chdir(where.folder):
            return CliRunner().invoke(main, list(arguments))

    out = tmp_path / "model"
    result = command(project, "export", "--round", "r003", "--average", str(out))
    assert result.exit_code == 0, result.output
    found = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).state_dict()
    for name, weight in merged(project, "r003/average").items():
        torch.testing.assert_close(found[name], weight, atol=2e-6, rtol=1e-5)
    asked = command(project, "chat", "--round", "r003", "--average", "--prompt", "Say a", "--json")
    assert '"round": "r003 averaged"' in asked.output or '"round":"r003 averaged"' in asked.output, asked.output
    for arguments in (("export", str(out)), ("chat", "--prompt", "x")):
        refused = command(without, arguments[0], "--round", "r003", "--average", *arguments[1:])
        assert refused.exit_code != 0
        assert "update.average_rounds: 1" in (refused.output + str(refused.exception))
