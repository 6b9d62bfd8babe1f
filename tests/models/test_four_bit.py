"""`policy.quantization: nf4` against transformers' and PEFT's own 4-bit model, and against itself unpacked."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import lora_policy, policy_settings, save_tiny, targets_of
from models.test_native_layers import LAYERS, model_of
from peft import PeftModel
from stage_runs import ROUND, Stages
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from ppo_pipeline.compute.native.operations import serves
from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models import bitsandbytes_library
from ppo_pipeline.models.acceleration import accelerate_policy
from ppo_pipeline.models.adapter import adapter_config, attach_policy, save_policy
from ppo_pipeline.models.checkpoint import load_merged, load_unmerged
from ppo_pipeline.models.four_bit import (
    FILE,
    NF4,
    FourBitLinear,
    load_base,
    quantizable,
    quantization_of,
    unpack_linears,
)
from ppo_pipeline.models.loading import load_model
from ppo_pipeline.models.policy import Policy, model_logprobs, pack
from ppo_pipeline.sampling.batch_invariant import load_sampler
from ppo_pipeline.sampling.request import Request
from ppo_pipeline.sampling.streams import uniforms
from ppo_pipeline.storage.files import write_json

pytest.importorskip("bitsandbytes")
CPU, FP32 = torch.device("cpu"), torch.float32
IDS = torch.arange(3, 23)[None] * 7 % 256


def written(folder: Path) -> tuple[Path, Path]:
    """Write a small base with biases, and an adapter for it in 4 bits; return their folders."""
    base, policy = folder / "base", folder / "policy"
    model_of("qwen2").save_pretrained(base)
    model = load_model(base, CPU, FP32)
    made = lora_policy(model, targets_of("qwen2"), std=0.1)
    save_policy(made, adapter_config(policy_settings(), "base", made.layers, model), policy, NF4)
    return base, policy


def four_bit(model: Any) -> dict[str, FourBitLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, FourBitLinear)}


@torch.no_grad()
def test_numbers_and_logits_are_those_of_transformers_and_peft(tmp_path: Path) -> None:
    import bitsandbytes

    base, policy = written(tmp_path)
    how = BitsAndBytesConfig(**json.loads((policy / FILE).read_text()), bnb_4bit_compute_dtype=FP32)
    theirs = AutoModelForCausalLM.from_pretrained(base, dtype=FP32, quantization_config=how, device_map="cpu")
    ours = load_unmerged(base, policy, CPU, FP32)
    layers = {name: m for name, m in theirs.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)}
    found = {name.removesuffix(".base"): layer for name, layer in four_bit(ours).items()}
    assert found.keys() == layers.keys() and len(found) == 7 * LAYERS
    for name, layer in layers.items():
        expected = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        assert torch.equal(found[name].weight, expected), name
    expected = PeftModel.from_pretrained(theirs, policy).train()(input_ids=IDS).logits  # else it rounds to bf16
    torch.testing.assert_close(ours(input_ids=IDS).logits, expected, atol=2e-4, rtol=1e-4)
    plain = load_model(base, CPU, FP32)
    attach_policy(plain, policy)
    assert (plain(input_ids=IDS).logits - expected).abs().max() > 0.1, "4 bits changed nothing"


@torch.no_grad()
def test_what_is_exported_is_the_policy_in_plain_layers(tmp_path: Path) -> None:
    base, policy = written(tmp_path)
    merged = load_merged(base, policy, CPU, FP32)
    assert not four_bit(merged) and not any("lora" in name for name, _ in merged.named_modules())
    assert {type(m) for m in merged.modules() if isinstance(m, nn.Linear)} == {nn.Linear}
    expected = load_unmerged(base, policy, CPU, FP32)(input_ids=IDS).logits
    torch.testing.assert_close(merged(input_ids=IDS).logits, expected, atol=2e-4, rtol=1e-4)


def test_gradients_are_those_over_the_same_numbers_unpacked_and_none_of_these_is_kept(
    tmp_path: Path, either_kernels: None
) -> None:
    base, folder = written(tmp_path)
    batch = pack([IDS[0, :6]] * 3, [IDS[0, 6:], IDS[0, 9:], IDS[0, 12:]], 0, CPU, 0)  # 64 tokens
    found, kept = [], []
    for unpacked in (True, False):
        model = load_base(base, folder, CPU, FP32)
        if unpacked:
            unpack_linears(model)
        policy = Policy(model, attach_policy(model, folder))
        accelerate_policy(policy)
        kept.append(set())
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept[-1].add(tuple(x.shape)) or x, lambda x: x):
            scores = policy.score(batch, 0.7)
        scores.logprobs.sum().backward()
        found.append([p.grad for p in policy.policy_parameters().values()])
    for ours, expected in zip(found[1], found[0], strict=True):
        assert expected is not None and expected.abs().max() > 0
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
    assert not kept[1] & {(96, 96), (32, 96), (120, 96), (96, 120)}


@pytest.mark.parametrize("invariant", [False, True])
def test_what_samples_is_what_is_trained(tmp_path: Path, invariant: bool) -> None:
    if invariant and not serves(CPU, FP32):
        pytest.skip("no C compiler here")
    base, folder = written(tmp_path)
    model, kind = load_sampler(base, folder, CPU, FP32, invariant)
    assert len(four_bit(model)) == 7 * LAYERS
    requests = [Request(IDS[0, : 5 + i].tolist(), uniforms(0, str(i), 8)) for i in range(5)]
    responses = kind(model, (), 8, 1.0, 3).decode(requests)
    trained = load_base(base, folder, CPU, FP32)
    policy = Policy(trained, attach_policy(trained, folder))
    accelerate_policy(policy)
    tensors = [torch.tensor(r.prompt_ids) for r in requests], [torch.tensor(r.ids) for r in responses]
    expected = model_logprobs(policy.model, pack(*tensors, 0, CPU, 0), 1.0)
    sampled = torch.tensor([x for response in responses for x in response.logprobs])
    assert torch.equal(sampled, expected) if invariant else (sampled - expected).abs().max() < 1e-4


def test_all_stages_and_export(tmp_path: Path) -> None:
    def change(params: Any) -> None:
        params["policy"].update(quantization="nf4", critic="separate")
        params["update"]["average_rounds"] = 2
        params["compute"]["batch_invariant"] = invariant

    invariant = serves(CPU, FP32)
    project = Stages(tmp_path, change)
    model_of("qwen3").save_pretrained(tmp_path / "data/base")
    project.run("init")
    for name in ("r001", "r002"):
        for stage in ROUND if name == "r002" else ROUND[:-1]:
            project.run(stage, name)
        metrics = project.metrics(name)
        differences = metrics["val/ratio_first_max_deviation"], metrics["val/rollout_logprob_difference_max"]
        assert differences == (0, 0) if invariant else max(differences) < 1e-4
    columns = (project.column("r001/reference.parquet", c) for c in ("policy_logprobs", "reference_logprobs"))
    assert len({str(column) for column in columns}) == 1, "B is 0: policy and reference are one base"
    for folder in ("r000/policy", "r001/policy", "r002/policy", "r002/average"):
        assert quantization_of(project.path(folder)) == NF4


def test_a_plain_base_s_folders_say_nothing(tmp_path: Path) -> None:
    base, policy = written(tmp_path)
    (policy / FILE).unlink()
    assert quantization_of(policy) is None and not four_bit(load_unmerged(base, policy, CPU, FP32))


def test_what_cannot_be_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, policy = written(tmp_path)
    with pytest.raises(PipelineError, match=r"policy\.quantization: not there for the device mps; set it to null"):
        load_base(base, policy, torch.device("mps"), FP32)
    write_json(policy / FILE, {**NF4, "bnb_4bit_quant_type": "fp4"})
    with pytest.raises(PipelineError, match=r"quantization\.json: a quantization that is not known here"):
        load_base(base, policy, CPU, FP32)
    with pytest.raises(PipelineError, match="GPT2LMHeadModel has no linear layers besides its head"):
        quantizable(load_model(save_tiny(tmp_path / "gpt2", "gpt2"), CPU, FP32))

    monkeypatch.setattr(bitsandbytes_library, "version_of", lambda name: None)
    with pytest.raises(AssertionError, match=r"not installed here: `pip install .*ppo-pipeline\[nf4\]'`"):
        Stages(tmp_path / "project", lambda params: params["policy"].update(quantization="nf4"))
