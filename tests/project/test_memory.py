"""`ppo-pipeline memory`: computed figures against measured ones, of small models here and of earlier runs' records."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import targets_of
from transformers import AutoConfig, AutoModelForCausalLM

from ppo_pipeline.cli.main import main
from ppo_pipeline.compute.native import library
from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models.lora import add_lora, init_lora
from ppo_pipeline.models.native_layers import use_native_layers
from ppo_pipeline.models.policy import Policy, model_logprobs, pack
from ppo_pipeline.project.memory.cards import tables
from ppo_pipeline.project.memory.needs import NF4, Plan, stage_memory
from ppo_pipeline.project.memory.shapes import KNOWN, Shape, shape_in_force, shape_named, shape_of_config
from ppo_pipeline.sampling import decoder
from ppo_pipeline.sampling.request import Request
from ppo_pipeline.sampling.streams import uniforms
from ppo_pipeline.settings.params import load_params

ROOT = Path(__file__).resolve().parents[2]
SMALL = Shape(4, 128, 256, 4, 2, 32, 1000, True)
RANK, SEQUENCES, LENGTH = 4, 4, 128
PLAN = Plan("cpu", 4, rank=RANK, layers_with_lora=7, microbatch_tokens=512, batch_tokens=512, longest=LENGTH)
CPU = torch.device("cpu")


def small_model() -> Any:
    s = SMALL
    config = AutoConfig.for_model(
        "llama", vocab_size=s.vocabulary, hidden_size=s.hidden, intermediate_size=s.ffn, num_hidden_layers=s.layers,
        num_attention_heads=s.heads, num_key_value_heads=s.kv_heads, head_dim=s.head_size, tie_word_embeddings=s.tied,
        max_position_embeddings=512,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    use_native_layers(model)
    return model


def measured(work: Any) -> int:
    """Return the most bytes of tensors that `work` had at a time; it runs twice, since the first time tries kernels."""
    work()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    events.sort(key=lambda event: event.start_ns())
    return int(np.cumsum([event.nbytes() for event in events]).max())


def computed(stage: str, plan: Plan, *parts: str) -> float:
    found = stage_memory(stage, SMALL, replace(plan, native=library.kernels() is not None))
    return sum(found[part] for part in parts)


def batch() -> Any:
    ids = torch.arange(LENGTH) % 999
    return pack([ids[:64]] * SEQUENCES, [ids[64:]] * SEQUENCES, 0, CPU, 0)


@pytest.mark.parametrize("way", ["lora", "lora, checkpointing", "full"])
def test_the_update_keeps_and_makes_what_is_computed(way: str, either_kernels: None) -> None:
    model, layers, plan = small_model(), {}, PLAN
    if way != "full":
        layers = add_lora(model.requires_grad_(False), targets_of("llama"), RANK, 8, 0.0)
        init_lora(layers, 0)
        plan = replace(plan, lora=SMALL.lora_weights(RANK, targets_of("llama")), checkpointing="," in way)
        assert plan.lora == sum(layer.lora_A.numel() + layer.lora_B.numel() for layer in layers.values())
    else:
        plan = replace(plan, rank=0, layers_with_lora=0)
        assert SMALL.weights == sum(p.numel() for p in model.parameters())
    policy = Policy(model, layers)
    if plan.checkpointing:
        policy.save_memory()

    # The gradients are there after the first time, as of an earlier microbatch.
    peak = measured(lambda: policy.score(batch(), 1.0).logprobs.sum().backward())
    gradients = sum(p.grad.nbytes for p in policy.policy_parameters().values() if p.grad is not None)
    assert gradients == computed("update", plan, "gradients")
    ratio = peak / computed("update", plan, "activations", "work")
    assert 0.85 < ratio < 1.05, ratio


def test_the_reference_makes_what_is_computed(either_kernels: None) -> None:
    model = small_model()
    with torch.inference_mode():
        ratio = measured(lambda: model_logprobs(model, batch(), 1.0)) / computed("reference", PLAN, "work")
    assert 0.85 < ratio < 1.05, ratio


def test_the_decoder_s_cache_is_what_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Seen(decoder.SlotCache):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            made.append(self)

    monkeypatch.setattr(decoder, "SlotCache", Seen)
    requests = [Request(list(range(5, 5 + 7)), uniforms(0, str(i), 3)) for i in range(6)]
    decoder.Decoder(small_model(), (), 3, 1.0, 4).decode(requests)
    found = sum(x.nbytes for x in (*made[0].keys, *made[0].values))
    assert found == stage_memory("rollout", SMALL, replace(PLAN, slots=4, capacity=10))["cache"]


# Peak memory of whole processes, in GB, as logs/ had it: docs/performance.md, and a run of the english preset.
QWEN3 = Shape(28, 1024, 3072, 16, 8, 128, 151936, True)
RECORDS = [
    ("update", KNOWN["qwen2.5-0.5b"], 4.4, {"lora": 1, "microbatch_tokens": 1024}),
    ("update", QWEN3, 3.8, {"lora": 1, "microbatch_tokens": 120}),
    ("update", QWEN3, 9.5, {"state_bytes": 10, "microbatch_tokens": 120}),
    ("update", KNOWN["smollm2-135m-instruct"], 2.05, {"lora": 1, "microbatch_tokens": 1024}),
    ("update", KNOWN["smollm2-135m-instruct"], 2.73, {"lora": 1, "microbatch_tokens": 1024, "native": False}),
    ("rollout", KNOWN["smollm2-135m-instruct"], 1.50, {"lora": 1, "slots": 64, "capacity": 130}),
    ("rollout", QWEN3, 5.29, {"slots": 2, "capacity": 130, "bytes": 4}),
    ("update", QWEN3, 11.2, {"bytes": 4, "microbatch_tokens": 120}),
]


@pytest.mark.parametrize(("stage", "shape", "gigabytes", "changes"), RECORDS)
def test_whole_processes_on_a_cpu_took_what_is_computed(
    stage: str, shape: Shape, gigabytes: float, changes: dict[str, Any]
) -> None:
    plan = Plan("cpu", **{"native": True, **changes})
    if plan.lora:
        plan = replace(plan, lora=shape.lora_weights(8, "all-linear"), rank=8, layers_with_lora=7)
    ratio = gigabytes * 1e9 / sum(stage_memory(stage, shape, plan).values())
    assert 0.9 < ratio < 1.25, ratio


def test_the_tables_of_the_docs_are_the_function_s() -> None:
    assert tables() in (ROOT / "docs/memory.md").read_text(encoding="utf-8")


def test_the_committed_shapes_have_the_known_numbers_of_weights() -> None:
    """As the models' cards say, in millions: of all weights, and without embeddings."""
    cards = {"qwen2.5-0.5b": (494, 358), "qwen2.5-1.5b": (1544, 1310), "qwen2.5-3b": (3086, 2775)}
    cards |= {"qwen2.5-7b": (7616, 6525), "qwen2.5-14b": (14770, 13212), "smollm2-135m-instruct": (135, 106)}
    assert cards.keys() == KNOWN.keys()
    for name, (every, inner) in cards.items():
        assert KNOWN[name].weights == pytest.approx(every * 1e6, rel=0.004)
        assert KNOWN[name].linear_weights == pytest.approx(inner * 1e6, rel=0.004)


def test_four_bits_are_qlora_s() -> None:
    """The paper: 4 bits a weight and 0.127 for the scales."""
    assert abs(8 * NF4 - 4.127) < 0.001


def test_the_command_prints_what_the_function_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    found = json.loads(CliRunner().invoke(main, ["memory", "--json"], catch_exceptions=False).output)
    assert found["weights"] == KNOWN["smollm2-135m-instruct"].weights
    assert set(found["gpu"]) == set(found["cpu"]) == {"rollout", "reference", "update", "evaluate"}
    lines = CliRunner().invoke(main, ["memory", "--model", "qwen2.5-7b"], catch_exceptions=False).output.splitlines()
    (rollout,) = [line.split("\t") for line in lines if line.startswith("rollout")][:1]
    assert float(rollout[2]) == pytest.approx(2 * 7.615, abs=0.03), "weights in bf16 on a GPU"


def test_models_that_are_not_known_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PipelineError, match=r"qwen2\.5-7bb.*Did you mean 'qwen2\.5-7b'"):
        shape_named("qwen2.5-7bb")
    with pytest.raises(PipelineError, match="a model with experts"):
        shape_of_config({"num_experts": 4}, "config.json")
    with pytest.raises(PipelineError, match="for models with Llama's layers, not for 'gpt2'"):
        shape_of_config({"model_type": "gpt2", "n_embd": 4}, "config.json")
    params = load_params(ROOT / "params.yaml")
    other = params.model_copy(update={"base": params.base.model_copy(update={"model": "some/other"})})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/base").mkdir(parents=True)  # of the model before
    (tmp_path / "data/base/config.json").write_text(json.dumps({"model_type": "gpt2"}))
    (tmp_path / "data/base/source.json").write_text(json.dumps({"model": "some/older", "revision": None}))
    with pytest.raises(PipelineError, match=r"base\.model: some/other: no folder .* `dvc repro base` fetches it"):
        shape_in_force(other)
    assert shape_named("Qwen/Qwen2.5-7B-Instruct") == KNOWN["qwen2.5-7b"]
