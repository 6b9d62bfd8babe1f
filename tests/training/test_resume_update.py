"""An update that is stopped between any two microbatches goes on from its snapshot to the same bits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from updating import TEMPERATURE, make_data, make_policy, make_targets, parameters_of, update_settings

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models.checkpoint import TrainerState
from ppo_pipeline.models.policy import Policy
from ppo_pipeline.resume.snapshots import Snapshots
from ppo_pipeline.training import eight_bit
from ppo_pipeline.training.critic_warmup import freeze_policy
from ppo_pipeline.training.loss_scale import loss_scaler
from ppo_pipeline.training.optimizer import make_optimizer, moments_of
from ppo_pipeline.training.ppo import PPO


class Killed(BaseException):
    """In place of SIGKILL: nothing in between may catch it and tidy up."""


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Snapshots, "_pause", lambda self: 0.0)
    monkeypatch.setattr(eight_bit, "SHORTEST", 16)  # of the tiny model's rows too


def build(
    dtype: torch.dtype, dropout: float, scale: float | None, policy: dict[str, str], settings: dict,
    frozen: bool = False
) -> Any:  # fmt: skip
    made = make_policy(**policy)
    if frozen:
        freeze_policy(made)
    made.model.to(dtype)
    if policy.get("tuning") != "full":
        for parameter in made.policy_parameters().values():
            parameter.data = parameter.data.float()
    for layer in made.layers.values():
        layer.dropout.p = dropout
    s = update_settings(microbatch_tokens=20, **settings)
    scaler = loss_scaler(torch.device("cpu"), dtype, scale, 0)
    return PPO(made, make_optimizer(made, s, TrainerState()), s, TEMPERATURE, 0, scaler=scaler), made


def state_of(ppo: PPO, policy: Policy) -> dict[str, torch.Tensor]:
    return {**parameters_of(policy), **moments_of(policy, ppo.optimizer)}


CASES: dict[str, dict[str, Any]] = {
    "lora": {},
    "dropout": {"dropout": 0.3},
    "full": {"policy": {"tuning": "full"}},
    "full bf16": {"policy": {"tuning": "full"}, "dtype": torch.bfloat16},
    "full 8 bits": {"policy": {"tuning": "full"}, "settings": {"optimizer": "adamw_8bit"}},
    "full bf16 8 bits": {
        "policy": {"tuning": "full"},
        "dtype": torch.bfloat16,
        "settings": {"optimizer": "adamw_8bit"},
    },
    "separate critic": {"policy": {"critic": "separate"}},
    "no critic": {"policy": {"critic": "none"}},
    "fp16": {"dtype": torch.float16, "scale": 2.0**40, "settings": {"epochs": 12}},
    "critic alone": {"frozen": True},
    "target kl": {"settings": {"target_kl": 0.002, "epochs": 4}},
}


@pytest.mark.parametrize("case", CASES)
def test_stopped_at_every_microbatch_it_ends_with_the_same_bits(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"dtype": torch.float32, "dropout": 0.0, "scale": None, "policy": {}, "settings": {}, **CASES[case]}
    data = make_data()
    targets = make_targets(make_policy(**options["policy"]), data)
    plain, policy = build(**options)
    plain.run(data, targets, ("k",))
    wanted = state_of(plain, policy)

    run_microbatch, left = PPO._microbatch, 0

    def microbatch(self: PPO, *arguments: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return run_microbatch(self, *arguments)

    monkeypatch.setattr(PPO, "_microbatch", microbatch)
    stops = 0
    while True:
        left = 1
        torch.manual_seed(stops)  # a new process has another random state
        ppo, policy = build(**options)
        try:
            ppo.run(data, targets, ("k",), snapshots=Snapshots(tmp_path / "steps", "update"))
            break
        except Killed:
            stops += 1
    assert stops >= 5
    found = state_of(ppo, policy)
    assert any(tensor.dtype == torch.uint8 for tensor in found.values()) == ("8 bits" in case)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    assert ppo.metrics() == plain.metrics()
    assert (ppo.steps, ppo.skipped, ppo.stopped) == (plain.steps, plain.skipped, plain.stopped)
    assert (ppo.padding.tokens, ppo.padding.places) == (plain.padding.tokens, plain.padding.places)
    assert ppo.scaler.state_dict() == plain.scaler.state_dict()
    if case == "fp16":
        assert plain.skipped and plain.steps
    if case == "target kl":
        assert plain.stopped and plain.steps


def test_a_loss_that_is_not_finite_keeps_the_last_good_state(tmp_path: Path) -> None:
    data = make_data()
    targets = make_targets(make_policy(), data)
    once = {"minibatches": 1, "epochs": 1}
    good, policy = build(torch.float32, 0.0, None, {}, once)
    good.run(data, targets, ("k",))
    wanted = parameters_of(policy)

    def spoil(samples: int, tokens: int) -> None:
        targets.advantages[3][0] = float("nan")

    ppo, policy = build(torch.float32, 0.0, None, {}, {**once, "epochs": 2})
    kept = Snapshots(tmp_path / "steps", "update")
    with pytest.raises(PipelineError, match=r"step 2 is nan \(samples .*s3.*The state before that step is in") as error:
        ppo.run(data, targets, ("k",), spoil, kept)
    assert str(kept.newest()) in str(error.value.message)
    tensors = load_file(kept.newest() / "tensors.safetensors")  # type: ignore[operator]
    for name, tensor in parameters_of(policy).items():
        assert torch.equal(tensor, wanted[name])
        assert torch.equal(tensors[f"weight.{name}"], tensor)
        assert f"grad.{name}" not in tensors


@pytest.mark.parametrize("case", ["lora", "full", "full bf16", "full 8 bits", "full bf16 8 bits", "separate critic"])
def test_a_snapshot_has_as_many_bytes_as_expected(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two microbatches of a later step: weights, gradients and moments are all there."""
    options = {"dtype": torch.float32, "dropout": 0.0, "scale": None, "policy": {}, "settings": {}, **CASES[case]}
    expected: list[int] = []
    monkeypatch.setattr(Snapshots, "expect", lambda self, size: expected.append(size))
    data, kept = make_data(), Snapshots(tmp_path / "steps", "update")
    ppo, policy = build(**options)
    ppo.run(data, make_targets(policy, data), ("k",), snapshots=kept)
    assert ppo.steps == 4
    tensors = load_file(kept.newest() / "tensors.safetensors")  # type: ignore[operator]
    parts = {n: t for n, t in tensors.items() if n.startswith(("weight.", "grad.", "optimizer.")) and ".step." not in n}
    assert any(name.startswith("grad.") for name in parts)
    assert expected == [sum(tensor.nbytes for tensor in parts.values())]


def test_a_snapshot_of_other_parameters_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_data()
    targets = make_targets(make_policy(), data)
    for critic, message in (("shared", ""), ("separate", "is of other parameters")):
        ppo, _ = build(torch.float32, 0.0, None, {"critic": critic}, {})
        ppo.run(data, targets, ("k",), snapshots=Snapshots(tmp_path / "steps", "update"))
        assert message in capsys.readouterr().err
        assert ppo.steps == 4
