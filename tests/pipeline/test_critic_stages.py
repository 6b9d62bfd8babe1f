"""Critics in real stages: what is in the tables and folders of rounds with and without values."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from stage_runs import Stages
from transformers import AutoModelForCausalLM


def settings(critic: str, tuning: str = "lora", **advantage: Any) -> Any:
    def change(params: Any) -> None:
        params["policy"].update(critic=critic, tuning=tuning)
        params["advantage"].update(advantage)

    return change


def state(project: Stages, name: str) -> dict[str, Any]:
    return json.loads(project.path(f"{name}/trainer/state.json").read_text())


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_without_a_critic(tuning: str, tmp_path: Any) -> None:
    project = Stages(tmp_path, settings("none", tuning, estimator="rloo", whiten_advantages="none"))
    project.run("init")
    project.run("baseline")
    for name in ("r001", "r002"):
        project.round(name)
        assert project.column(f"{name}/reference.parquet", "values") == [None] * 8
        assert project.column(f"{name}/reference.parquet", "bootstrap_value") == [None] * 8
        assert project.column(f"{name}/advantages.parquet", "returns") == [None] * 8
        assert {p.name for p in project.path(f"{name}/trainer").iterdir()} == {"state.json", "optimizer.safetensors"}
        assert state(project, name)["critic"] == "none" and state(project, name)["value_step"] == 0
        metrics = project.metrics(name)
        assert metrics["policy/steps"] == 2 and metrics["val/ratio_first_max_deviation"] < 1e-5
        assert not {"loss/value", "val/values", "val/explained_variance"} & set(metrics)
    project.run("summary")
    rows = (project.folder / "metrics/training.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["round", "r001", "r002"]


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_a_round_without_values_between_two_with(critic: str, tmp_path: Any) -> None:
    def change(params: Any) -> None:
        params["policy"]["critic"] = critic
        params["rounds"] = {
            "r001": {"parent": "r000"},
            "r002": {"parent": "r001", "advantage": {"estimator": "reinforce++"}},
            "r003": {"parent": "r002"},
        }

    project = Stages(tmp_path, change)
    project.run("init")
    for name in ("r001", "r002", "r003"):
        project.round(name)
    assert [state(project, n)["optimizer_step"] for n in ("r001", "r002", "r003")] == [2, 4, 6]
    assert [state(project, n)["value_step"] for n in ("r001", "r002", "r003")] == [2, 2, 4]
    files = ["value_head.safetensors", *["critic.safetensors"] * (critic == "separate")]
    for file in files:
        one, two, three = (load_file(project.path(f"{n}/trainer/{file}")) for n in ("r001", "r002", "r003"))
        assert all(torch.equal(one[key], two[key]) for key in one)
        assert any(not torch.equal(two[key], three[key]) for key in two)
    moments = [load_file(project.path(f"{n}/trainer/optimizer.safetensors")) for n in ("r001", "r002")]
    of_critic = [key for key in moments[0] if key.startswith(("value_head", "critic"))]
    assert of_critic and all(torch.equal(moments[0][key], moments[1][key]) for key in of_critic)
    assert all(row is not None for row in project.column("r002/reference.parquet", "values")), "values are still there"
    assert "loss/value" not in project.metrics("r002") and "loss/value" in project.metrics("r003")


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_separate_critic_starts_as_the_base_and_learns(tuning: str, tmp_path: Any) -> None:
    project = Stages(tmp_path, settings("separate", tuning))
    project.run("init")
    first = load_file(project.path("r000/trainer/critic.safetensors"))
    if tuning == "full":
        backbone = AutoModelForCausalLM.from_pretrained(project.folder / "data/base", dtype="auto").base_model
        assert {f"critic.{name}" for name, _ in backbone.named_parameters()} == set(first)
        for name, parameter in backbone.named_parameters():
            assert torch.equal(first[f"critic.{name}"], parameter), "every bit of the base"
    else:
        assert all(not tensor.any() for key, tensor in first.items() if key.endswith("lora_B"))
        policy = load_file(project.path("r000/policy/adapter_model.safetensors"))
        for key, tensor in first.items():
            other = policy["base_model.model." + key.removeprefix("critic.") + ".weight"]
            assert not key.endswith("lora_A") or not torch.equal(tensor, other), "drawn apart from the policy's"
    for name in ("r001", "r002"):
        project.round(name)
        assert project.metrics(name)["val/ratio_first_max_deviation"] < 1e-5
    second = load_file(project.path("r002/trainer/critic.safetensors"))
    assert second.keys() == first.keys()
    assert any(not torch.equal(first[key], second[key]) for key in first)
    assert state(project, "r002")["value_step"] == 4


def test_an_update_that_ends_before_its_first_step(tmp_path: Any) -> None:
    """Dropout moves the second round's first minibatch beyond a tiny target_kl: the policy stays as it was."""

    def change(params: Any) -> None:
        params["policy"]["dropout"] = 0.5
        params["rounds"]["r002"]["update"] = {"target_kl": 1e-9}

    project = Stages(tmp_path, change)
    project.run("init")
    for name in ("r001", "r002"):
        for stage in ("rollout", "reward", "reference", "advantage"):
            project.run(stage, name)
        output = project.run("update", name)
    assert "0 of 2 steps" in output and "stopped early by target_kl" in output
    assert project.metrics("r002")["val/rollout_logprob_difference"] < 1e-4, "dropout is on outside of the update"
    assert project.metrics("r002")["policy/steps"] == 0
    assert state(project, "r002")["optimizer_step"] == 2
    files = [project.path(f"{name}/policy/adapter_model.safetensors").read_bytes() for name in ("r001", "r002")]
    assert files[0] == files[1]


@pytest.mark.parametrize("critic", ["shared", "separate"])
@pytest.mark.parametrize("how", ["zero", "normal", "uniform"])
def test_the_value_head_starts_as_set(critic: str, how: str, tmp_path: Path) -> None:
    """Against the plain statistics of each distribution over 32 weights, by bounds that no seed breaks by chance."""

    def change(params: Any) -> None:
        std = 0.01 if how == "normal" else None
        params["policy"].update(critic=critic, value_head_init=how, value_head_std=std)

    project = Stages(tmp_path, change)
    project.run("init")
    head = load_file(project.path("r000/trainer/value_head.safetensors"))
    weight, bias = head["value_head.linear.weight"], head["value_head.linear.bias"]
    assert weight.dtype == torch.float32 and weight.shape == (1, 32)
    if how == "zero":
        assert not weight.any() and not bias.any()
    elif how == "normal":
        assert not bias.any() and 0.005 < weight.std().item() < 0.02 and weight.abs().max() < 0.06
    else:
        bound = 1 / 32**0.5
        assert bias.abs() <= bound and bias.any()
        assert weight.abs().max() <= bound and weight.max() > 0.05 and weight.min() < -0.05
    first = weight.clone()
    project.run("init")
    assert torch.equal(
        load_file(project.path("r000/trainer/value_head.safetensors"))["value_head.linear.weight"], first
    )
    project.run("rollout", "r001")
    project.run("reference", "r001")
    values = [v for row in project.column("r001/reference.parquet", "values") for v in row]
    assert any(values) == (how != "zero")
