"""Rounds in which the critic alone learns, in real stages: what stays, what is fitted, what later rounds go on from."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model
from safetensors.torch import load_file
from stage_runs import Stages

WARMED = {"critic_warmup_rounds": 2, "critic_warmup_epochs": 3, "value_clip_range": 0.01, "target_kl": 1e-9}


def project(folder: Path, critic: str, tuning: str, update: dict[str, Any], **more: Any) -> Stages:
    def change(params: Any) -> None:
        params["policy"].update(critic=critic, tuning=tuning, dropout=more.pop("dropout", 0.0))
        params["update"].update(update)
        for section, values in more.items():
            params[section].update(values)
        params["rounds"] = {f"r{i:03d}": {"parent": f"r{i - 1:03d}"} for i in (1, 2, 3)}

    made = Stages(folder, change)
    made.run("init")
    return made


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def train(made: Stages, name: str) -> dict[str, Any]:
    """Run a round but for its evaluation; return its metrics and what training goes on from."""
    for stage in ("rollout", "reward", "reference", "advantage", "update"):
        made.run(stage, name)
    return made.metrics(name) | json.loads(made.path(f"{name}/trainer/state.json").read_text())


@pytest.mark.parametrize(("critic", "tuning"), [("shared", "lora"), ("separate", "lora"), ("shared", "full")])
def test_the_policy_stays_and_the_critic_learns(tmp_path: Path, critic: str, tuning: str) -> None:
    """value_clip_range and target_kl, which would hold the critic back, have no effect then."""
    made = project(tmp_path, critic, tuning, {**WARMED, "gradient_checkpointing": tuning == "full"})
    for place, name in enumerate(("r001", "r002"), start=1):
        found = train(made, name)
        assert files(made.path(f"{name}/policy")) == files(made.path("r000/policy"))
        assert (found["policy/steps"], found["critic/steps"], found["lr"]) == (0, 3, 0)
        assert (found["optimizer_step"], found["value_step"]) == (0, 3 * place)
        assert abs(found["policy/approxkl"]) < 1e-10 and found["policy/clipfrac"] == 0
        trained = {key.rsplit(".", 1)[0] for key in load_file(made.path(f"{name}/trainer/optimizer.safetensors"))}
        heads = {"value_head.linear.weight", "value_head.linear.bias"}
        assert trained >= heads if critic == "separate" else trained == heads
        assert all(key.startswith(("value_head.", "critic.")) for key in trained)
    if critic == "separate":
        before, after = (load_file(made.path(f"{name}/trainer/critic.safetensors")) for name in ("r000", "r001"))
        assert any(not torch.equal(before[key], after[key]) for key in before)
    found = train(made, "r003")
    assert files(made.path("r003/policy")) != files(made.path("r000/policy"))
    assert found["optimizer_step"] == found["policy/steps"] > 0
    assert found["value_step"] == 6 + found["policy/steps"] and "critic/steps" not in found


def test_the_value_head_is_fitted_as_adam_would_alone(tmp_path: Path) -> None:
    """Against torch's AdamW on a plain linear map from the hidden states of the plain model, one minibatch a step."""
    made = project(tmp_path, "shared", "lora", {**WARMED, "max_grad_norm": None})
    train(made, "r001")
    model, hidden, returns = tiny_model("llama"), [], []
    columns = [made.column("r001/rollouts.parquet", name) for name in ("prompt_ids", "response_ids")]
    with torch.no_grad():
        for prompt, response in zip(*columns, strict=True):
            states = model(torch.tensor([prompt + response]), output_hidden_states=True).hidden_states[-1][0]
            hidden.append(states[len(prompt) - 1 : -1])
    returns = torch.tensor(np.concatenate(made.column("r001/advantages.parquet", "returns")))
    head = torch.nn.Linear(32, 1)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    adam = torch.optim.AdamW(head.parameters(), lr=0.001, eps=1e-5, weight_decay=0.0)
    for _ in range(3):
        adam.zero_grad()
        (0.1 * 0.5 * (head(torch.cat(hidden))[:, 0] - returns).square().mean()).backward()
        adam.step()
    found = load_file(made.path("r001/trainer/value_head.safetensors"))
    torch.testing.assert_close(found["value_head.linear.weight"], head.weight.detach(), atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(found["value_head.linear.bias"], head.bias.detach(), atol=1e-5, rtol=1e-3)
    assert head.weight.abs().max() > 1e-3


def test_an_adaptive_kl_coefficient_and_dropout_rest_meanwhile(tmp_path: Path) -> None:
    """The KL of these rounds is 0, which would lower the coefficient before the policy has made a step."""
    more = {"advantage": {"kl_target": 6.0, "kl_horizon": 100}}
    made = project(tmp_path, "separate", "lora", {**WARMED, "critic_warmup_rounds": 1}, dropout=0.5, **more)
    first = train(made, "r001")
    assert first["controllers"]["kl_coef"] is None
    assert abs(first["policy/approxkl"]) < 1e-10
    second = train(made, "r002")
    assert second["objective/kl_coef"] == 0.05
    assert second["controllers"]["kl_coef"] == pytest.approx(0.05 * (1 - 0.2 * 8 / 100))
