"""A round on a device other than the CPU: it needs nothing that Apple's GPU lacks, and seldom waits for the device."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model
from other_device import DEVICE, NO_FLOAT64, TO_HOST, OtherDevice, There, on_mps
from sampling.test_decoder import STOP, prompts
from stage_runs import Stages
from updating import TEMPERATURE, make_data, make_policy, make_targets, update_settings

from ppo_pipeline.compute import device, device_trial, machine
from ppo_pipeline.compute.native import library
from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models.checkpoint import TrainerState
from ppo_pipeline.sampling.decoder import Decoder, Request
from ppo_pipeline.sampling.draw import Drawn, draw
from ppo_pipeline.sampling.streams import uniforms
from ppo_pipeline.sampling.truncation import Truncation
from ppo_pipeline.training import eight_bit
from ppo_pipeline.training.optimizer import make_optimizer
from ppo_pipeline.training.ppo import PPO

NEW_TOKENS = 12


@pytest.fixture(params=["mps", "cuda"])
def other(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[OtherDevice]:
    """A device as Apple's GPU or as CUDA; the CPU's own kernels are off for it, and for what is compared with it."""
    if request.param == "mps":
        monkeypatch.setattr(device, "WITHOUT_FLOAT64", {DEVICE.type})
    library.allow(False)
    yield OtherDevice(request.param)
    library.allow(True)


def test_the_device_refuses_what_the_real_ones_refuse() -> None:
    here, indices = torch.ones(3, 4), torch.tensor([0, 1])
    with OtherDevice("cuda").on() as other:
        there = here.to(DEVICE)
        assert isinstance(there.double() + 1, There) and there.device == DEVICE
        for mixed in (lambda: there + here, lambda: there[indices], lambda: there.gather(0, indices[None])):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()
        assert other.waits == []
        assert (there * 2).sum().item() == 24 and (there + 1).tolist()[0][0] == 2
        assert other.waits == ["_local_scalar_dense", TO_HOST]
        assert there.nonzero().shape == (12, 2) and other.waits[-1] == "nonzero"
    with OtherDevice("mps").on():
        there = here.to(DEVICE)
        for wide in (there.double, lambda: there.sum(dtype=torch.float64), lambda: here.double().to(DEVICE),
                     lambda: torch.zeros(2, dtype=torch.float64, device=DEVICE)):  # fmt: skip
            with pytest.raises(TypeError, match=NO_FLOAT64):
                wide()
        with pytest.raises(NotImplementedError, match="no kernel for MPS"):
            torch.geqrf(there)
    assert on_mps("searchsorted.Tensor") and on_mps("mm") and on_mps("logsumexp") and not on_mps("geqrf")


def test_a_gpu_that_attends_wrongly_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """auto takes the CPU then, `mps` is refused; wrong as in the reports: a view is read as if it were contiguous."""
    right = device_trial.attend

    def misread(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **more: Any) -> torch.Tensor:
        def read(x: torch.Tensor) -> torch.Tensor:
            return x if x.is_contiguous() else torch.as_strided(x, x.shape, torch.empty(x.shape).stride())

        return right(*(read(x) if x.device == DEVICE else x for x in (q, k, v)), **more)

    def mask_of_the_first(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: Any = None) -> torch.Tensor:
        if attn_mask is not None and q.device == DEVICE:
            attn_mask = attn_mask[:1].expand_as(attn_mask)
        return right(q, k, v, attn_mask=attn_mask)

    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "attends_rightly", lambda _: device_trial.attends_rightly(DEVICE))
    with OtherDevice("mps").on():
        assert device._device("auto", "compute") == device._device("mps", "compute") == "mps"
        for wrong in (misread, mask_of_the_first):
            monkeypatch.setattr(device_trial, "attend", wrong)
            assert device._device("auto", "compute") == "cpu"
            with pytest.raises(PipelineError, match=r"compute\.device: torch .* attends wrongly"):
                device._device("mps", "compute")


def decoded(model: Any, greedy: bool, truncation: Truncation | None) -> list[Any]:
    requests = [Request(p, None if greedy else uniforms(0, f"s{i}", NEW_TOKENS)) for i, p in enumerate(prompts())]
    return Decoder(model, [STOP], NEW_TOKENS, 0.9, 4, truncation).decode(requests)


@pytest.mark.parametrize(
    ("greedy", "truncation", "reads"),
    [(True, None, 0), (False, None, 2), (False, Truncation(top_k=20, min_p=0.01), 3),
     (False, Truncation(top_p=0.9), 5)],
)  # fmt: skip
@pytest.mark.parametrize("architecture", ["qwen3", "gpt2"])
def test_a_decoding_step_waits_for_the_device_once(
    other: OtherDevice, architecture: str, greedy: bool, truncation: Truncation | None, reads: int
) -> None:
    """reads: further ones of each step where the device has no double precision."""
    expected = decoded(tiny_model(architecture), greedy, truncation)
    steps: list[int] = []
    with other.on():
        model = tiny_model(architecture).to(DEVICE)
        model.config.pad_token_id = None  # transformers' GPT-2 looks for it in a prefill, for a warning
        other.waits.clear()
        model.get_output_embeddings().register_forward_hook(lambda *_: steps.append(len(other.waits)))
        found = decoded(model, greedy, truncation)
    assert [c.ids for c in found] == [c.ids for c in expected]
    for column in ("logprobs", "kept_mass"):
        pairs = zip(found, expected, strict=True)
        assert all(np.allclose(getattr(a, column), getattr(b, column), atol=1e-4) for a, b in pairs)
    assert set(other.waits) == {TO_HOST}
    each = 1 + (reads if other.like == "mps" else 0)
    assert set(np.diff(steps)) <= {0, each}, "0: between two parts of one prefill"


def test_tokens_drawn_without_double_precision_follow_the_probabilities(other: OtherDevice) -> None:
    """Against the cumulative sums of numpy in float64; a row has thousands of tokens, blocks that are no whole ones."""
    rng = np.random.default_rng(0)
    logits = (rng.standard_normal((2, 3000)) * 2).astype(np.float32)
    count = 400
    numbers = torch.from_numpy(rng.random(2 * count))
    mass = np.exp(logits.astype(np.float64))
    cumulative = np.cumsum(mass / mass.sum(1, keepdims=True), 1)
    wanted = [np.searchsorted(cumulative[i // count], numbers[i].item(), side="right") for i in range(2 * count)]
    with other.on():
        drawn = draw(torch.from_numpy(np.repeat(logits, count, 0)).to(DEVICE), numbers, 1.0).on_host()
    assert isinstance(drawn, Drawn)
    assert (np.array(wanted) == drawn.tokens.numpy()).mean() > 0.99  # fp32 sums of blocks move a border by 1e-7
    assert abs(np.array(wanted) - drawn.tokens.numpy()).max() <= 1


@pytest.mark.parametrize(
    ("tuning", "critic", "dtype", "optimizer"),
    [
        ("lora", "separate", torch.float32, "adamw"),
        ("full", "shared", torch.bfloat16, "adamw"),
        ("full", "shared", torch.bfloat16, "adamw_8bit"),
    ],
)
def test_an_update_waits_for_the_device_once_a_microbatch_and_once_a_step(
    other: OtherDevice, tuning: str, critic: str, dtype: torch.dtype, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one row, as models are trained that can; for padded rows transformers itself looks at the positions."""
    monkeypatch.setattr(eight_bit, "SHORTEST", 16)  # of the tiny model's rows too
    settings = update_settings(microbatch_tokens=24, optimizer=optimizer)
    data = replace(make_data(), packed=True)
    policy = make_policy("llama", tuning=tuning, critic=critic)
    targets = make_targets(policy, make_data())
    microbatches = 0
    with other.on():
        if dtype == torch.bfloat16 and tuning == "full":
            policy.model.to(dtype)
        for part in (policy.model, policy.value_head, policy.separate and policy.separate.model):
            if part is not None:
                part.to(DEVICE)
        ppo = PPO(policy, make_optimizer(policy, settings, TrainerState()), settings, TEMPERATURE, pad_id=0)
        ppo.on_metrics = lambda means: None
        original = ppo._microbatch

        def counted(*arguments: Any) -> Any:
            nonlocal microbatches
            microbatches += 1
            return original(*arguments)

        ppo._microbatch = counted  # type: ignore[method-assign]
        other.waits.clear()
        ppo.run(data, targets, ("seed", "r001"))
    assert microbatches > ppo.steps == settings.epochs * settings.minibatches
    of_the_first_ratio = 2
    assert len(other.waits) == microbatches + ppo.steps + of_the_first_ratio, other.waits


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_all_stages_of_a_round_run_there(
    other: OtherDevice, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(params: Any) -> None:
        params["compute"]["kernels"] = "torch"
        params["update"]["epochs"] = 1  # Adam makes of rounding errors near 0 steps of full length
        if kind == "full":
            params["policy"].update(tuning="full", critic="separate")
            params["rollout"].update(top_p=0.9, top_k=50, min_p=0.01)
            params["update"].update(kl_loss_coef=0.1, loss_normalization="sequence_mean")
            params["update"].update(rollout_correction="token_truncate", rollout_correction_max=2.0)

    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    here, there = Stages(tmp_path / "here", change), Stages(tmp_path / "there", change)
    for project in (here, there):
        project.run("init")
    here.round("r001")
    monkeypatch.setattr(machine, "device_and_format", lambda *_: (DEVICE, torch.float32))
    with other.on():
        there.round("r001")
    same = [("rollouts", "response_ids"), ("eval", "response_ids"), ("rewards", "score")]
    for table, column in same:
        assert there.column(f"r001/{table}.parquet", column) == here.column(f"r001/{table}.parquet", column)
    numbers, expected = there.metrics("r001"), here.metrics("r001")
    for name in ("loss/policy", "policy/grad_norm", "policy/entropy", "objective/kl", "val/ratio"):
        assert numbers[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-5), name
