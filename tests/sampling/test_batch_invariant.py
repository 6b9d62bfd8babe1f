"""Sampling by the training forward's own arithmetic: the same bits in every batch, and in the stage `reference`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model
from models.test_native_layers import KINDS, model_of
from stage_runs import Stages

from ppo_pipeline.compute.native.operations import serves
from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models.acceleration import accelerate_forward
from ppo_pipeline.models.lora import add_lora
from ppo_pipeline.resume.snapshots import INTERVAL, Snapshots
from ppo_pipeline.sampling import batch_invariant
from ppo_pipeline.sampling.batch_invariant import BatchInvariantDecoder, check_batch_invariant
from ppo_pipeline.sampling.decoder import Decoder, Request
from ppo_pipeline.sampling.streams import uniforms
from ppo_pipeline.sampling.truncation import Truncation
from ppo_pipeline.settings.params import load_params

pytestmark = pytest.mark.skipif(not serves(torch.device("cpu"), torch.float32), reason="no C compiler here")


def invariant_model(architecture: str, dtype: torch.dtype = torch.bfloat16) -> Any:
    """Return a model as after some training, with its LoRA beside."""
    model = model_of(architecture).to(dtype)
    for layer in add_lora(model, "all-linear", 4, 8, 0.0).values():
        torch.manual_seed(1)
        torch.nn.init.normal_(layer.lora_A, std=0.1)
        torch.nn.init.normal_(layer.lora_B, std=0.1)
    accelerate_forward(model)
    return model.requires_grad_(False)


def requests(start: int, count: int = 9, tokens: int = 12) -> list[Request]:
    rng = np.random.default_rng(0)
    same = rng.integers(2, 256, start).tolist()
    return [
        Request([*same, *rng.integers(2, 256, rng.integers(1, 30)).tolist()], uniforms(0, str(i), tokens))
        for i in range(count)
    ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("start", [0, 20])
@pytest.mark.parametrize("architecture", KINDS)
def test_no_batch_size_and_no_neighbour_changes_a_bit(architecture: str, start: int, dtype: torch.dtype) -> None:
    model, asked = invariant_model(architecture, dtype), requests(start)
    for truncation in (None, Truncation(top_k=20, top_p=0.9)):
        found = [
            BatchInvariantDecoder(model, [5], 12, 0.7, size, truncation).decode(asked) for size in (1, 2, 4, len(asked))
        ]
        alone = [BatchInvariantDecoder(model, [5], 12, 0.7, 1, truncation).decode([one])[0] for one in asked]
        assert all(one == alone for one in found)


@pytest.mark.parametrize("architecture", KINDS)
def test_it_is_the_decoder_but_for_rounding(architecture: str) -> None:
    model, asked = invariant_model(architecture, torch.float32), requests(20)
    plain, found = (kind(model, [5], 12, 0.7, 4).decode(asked) for kind in (Decoder, BatchInvariantDecoder))
    for one, other in zip(plain, found, strict=True):
        assert one.ids == other.ids
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)


def test_stopped_it_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INTERVAL, "0")
    monkeypatch.setattr(Snapshots, "_pause", lambda self: 0.0)
    model, asked = invariant_model("llama"), requests(20)
    wanted = BatchInvariantDecoder(model, [5], 12, 0.7, 4).decode(asked)
    stops = 0
    while True:
        steps = 0

        def stop(tokens: int, done: int) -> None:
            nonlocal steps
            steps += tokens > 0
            if steps == 3:
                raise KeyboardInterrupt

        try:
            kept = Snapshots(tmp_path / "s", "rollout")
            found = BatchInvariantDecoder(model, [5], 12, 0.7, 4).decode(asked, stop, kept)
            break
        except KeyboardInterrupt:
            stops += 1
    assert found == wanted
    assert stops >= 5


@pytest.mark.parametrize(
    ("tuning", "critic", "dtype"),
    [
        ("lora", "shared", "bf16"),
        ("full", "shared", "fp32"),
        ("lora", "separate", "bf16"),
        # each of them with the other dtype, which the first two have between them
        pytest.param("lora", "shared", "fp32", marks=pytest.mark.rare),
        pytest.param("full", "shared", "bf16", marks=pytest.mark.rare),
        pytest.param("lora", "separate", "fp32", marks=pytest.mark.rare),
    ],
)
def test_rounds_learn_from_exactly_what_was_sampled(tmp_path: Path, dtype: str, tuning: str, critic: str) -> None:
    def change(params: Any) -> None:
        params["compute"].update(batch_invariant=True, dtype=dtype)
        params["policy"].update(tuning=tuning, critic=critic)
        params["update"].update(microbatch_tokens=64, minibatches=2)

    project = Stages(tmp_path, change)
    model_of("qwen3").save_pretrained(tmp_path / "data/base")
    project.run("init")
    for name in ("r001", "r002"):
        project.round(name)
        numbers = project.metrics(name)
        assert numbers["val/rollout_logprob_difference_max"] == 0
        assert numbers["val/rollout_ess"] == pytest.approx(1, abs=1e-12)
        assert numbers["val/ratio_first_max_deviation"] == 0
        assert project.column(f"{name}/rollouts.parquet", "rollout_logprobs") == project.column(
            f"{name}/reference.parquet", "policy_logprobs"
        )


def test_a_model_that_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")
    accelerate_forward(model)
    with pytest.raises(PipelineError, match=r"batch_invariant: GPT2LMHeadModel has parts whose bits depend on the"):
        check_batch_invariant(model)
    good = invariant_model("llama")
    check_batch_invariant(good)
    # a step's attention whose last bit depends on how many rows there are
    plain = batch_invariant.BatchInvariantDecoder._logits

    def other(self: BatchInvariantDecoder, hidden: torch.Tensor) -> torch.Tensor:
        return plain(self, hidden) * (1 + 2**-7 * (len(hidden) == 2))

    monkeypatch.setattr(BatchInvariantDecoder, "_logits", other)
    with pytest.raises(PipelineError, match="LlamaForCausalLM has parts"):
        check_batch_invariant(good)


def test_it_is_refused_without_the_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path("params.yaml").read_text().replace("batch_invariant: false", "batch_invariant: true")
    (tmp_path / "params.yaml").write_text(text.replace("kernels: auto", "kernels: torch"))
    with pytest.raises(PipelineError, match=r"compute.*batch_invariant needs the CPU kernels: kernels auto"):
        load_params(tmp_path / "params.yaml")
    monkeypatch.setattr(batch_invariant, "serves", lambda *_: False)
    with pytest.raises(PipelineError, match=r"batch_invariant: needs the project's own kernels.* not for float16 on"):
        batch_invariant.load_sampler(tmp_path, tmp_path, torch.device("cpu"), torch.float16, True)
