"""fp16: the loss is scaled, an overflow skips the step and halves the scale, and the scale travels."""

import json
from typing import Any

import pytest
import torch
from stage_runs import Stages
from updating import TEMPERATURE, make_data, make_policy, make_targets, parameters_of, update_settings

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models.checkpoint import TrainerState
from ppo_pipeline.training.loss_scale import FIRST_LOSS_SCALE, loss_scaler
from ppo_pipeline.training.optimizer import make_optimizer, trained_parameters
from ppo_pipeline.training.ppo import PPO

CPU = torch.device("cpu")
HUGE = 2.0**40


def update(scale: float | None, streak: int = 0, dtype: torch.dtype = torch.float16, steps: int = 1, **changes: Any):
    """Run an update from this scale; return it, its scaler, and the policy's parameters before and after."""
    policy, data = make_policy(), make_data()
    policy.model.to(dtype)
    for parameter in policy.policy_parameters().values():
        parameter.data = parameter.data.float()
    settings = update_settings(epochs=steps, minibatches=1, **changes)
    optimizer, scaler = make_optimizer(policy, settings, TrainerState()), loss_scaler(CPU, dtype, scale, streak)
    ppo = PPO(policy, optimizer, settings, TEMPERATURE, 0, scaler=scaler)
    before = parameters_of(policy)
    ppo.run(data, make_targets(policy, data), ("k",))
    return ppo, scaler, before, policy, optimizer


def test_an_overflow_skips_the_step_and_halves_the_scale() -> None:
    ppo, scaler, before, policy, optimizer = update(HUGE)
    assert (ppo.steps, ppo.skipped) == (0, 1)
    assert all(torch.equal(p, before[n]) for n, p in parameters_of(policy).items())
    assert scaler.get_scale() == HUGE / 2 and scaler.state_dict()["_growth_tracker"] == 0
    assert not optimizer.state, "Adam has seen no gradient"
    assert ppo.metrics()["policy/steps_skipped"] == 1 and ppo.metrics()["policy/steps"] == 0


def test_it_goes_on_halving_until_a_step_is_made() -> None:
    ppo, scaler, before, policy, optimizer = update(HUGE, steps=40)
    assert ppo.skipped > 5 and ppo.steps > 5 and ppo.steps + ppo.skipped == 40
    assert scaler.get_scale() == HUGE / 2**ppo.skipped
    assert scaler.state_dict()["_growth_tracker"] == ppo.steps
    assert {int(s["step"]) for s in optimizer.state.values()} == {ppo.steps}
    assert any(not torch.equal(p, before[n]) for n, p in parameters_of(policy).items())


def test_gradients_are_those_of_fp32_whatever_the_scale() -> None:
    """The scale is taken out again before the norm is clipped."""
    policies = [update(scale, max_grad_norm=0.1)[3] for scale in (1.0, 256.0)]
    exact = update(None, dtype=torch.float32, max_grad_norm=0.1)[3]
    wanted = {n: p.grad for n, p in trained_parameters(exact).items()}
    for policy in policies:
        found = {n: p.grad for n, p in trained_parameters(policy).items()}
        difference = sum((found[n] - g).square().sum() for n, g in wanted.items()).sqrt()
        assert difference < 0.02 * 0.1, "the clipped gradient's norm is 0.1"


def test_the_streak_travels_and_doubles_the_scale_at_its_end() -> None:
    assert update(256.0, streak=1998)[1].state_dict()["_growth_tracker"] == 1999
    _, scaler, *_ = update(256.0, streak=1999)
    assert scaler.get_scale() == 512.0 and scaler.state_dict()["_growth_tracker"] == 0


def test_an_overflow_without_any_scale_is_an_error() -> None:
    policy, data = make_policy(), make_data()
    settings = update_settings(epochs=1, minibatches=1)
    scaler = loss_scaler(CPU, torch.float16, 1.0, 0)
    ppo = PPO(policy, make_optimizer(policy, settings, TrainerState()), settings, TEMPERATURE, 0, scaler=scaler)
    next(iter(policy.policy_parameters().values())).register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(PipelineError, match=r"optimizer step 1 is not finite.*fp32"):
        ppo.run(data, make_targets(policy, data), ("k",))


def test_other_formats_have_no_scaler() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert not loss_scaler(CPU, dtype, None, 0).is_enabled()
    assert loss_scaler(CPU, torch.float16, None, 0).get_scale() == FIRST_LOSS_SCALE
    assert "policy/steps_skipped" not in update(None, dtype=torch.float32)[0].metrics()


def test_the_scale_travels_with_the_checkpoint(tmp_path: Any) -> None:
    project = Stages(tmp_path, lambda params: params["compute"].update(dtype="fp16"))
    project.run("init")
    states, skipped = [], []
    for name in ("r001", "r002"):
        project.round(name)
        states.append(json.loads(project.path(f"{name}/trainer/state.json").read_text()))
        skipped.append(project.metrics(name)["policy/steps_skipped"])
        assert project.metrics(name)["policy/steps"] + skipped[-1] == 2
    assert states[0]["loss_scale"] == FIRST_LOSS_SCALE / 2 ** skipped[0]
    assert states[1]["loss_scale"] == states[0]["loss_scale"] / 2 ** skipped[1]
    if not sum(skipped):
        assert [s["loss_scale_streak"] for s in states] == [2, 4]
    assert states[1]["optimizer_step"] == 4 - sum(skipped)
