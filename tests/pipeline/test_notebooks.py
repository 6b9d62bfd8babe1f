"""Both notebooks' presets against plain loops over tokens (notebook_arithmetic.py), on tiny models in fp32.

The policy of r000 is moved away from the base first: at the very start every KL is 0.
"""

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from notebook_arithmetic import (
    Sample,
    gae,
    look_back,
    loss_terms,
    normalised,
    put_lora,
    rewards_full,
    rewards_lora,
    rule_score,
)
from reward_models import save_reward_model
from safetensors.torch import load_file, save_file
from stage_runs import Stages
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from ppo_pipeline.training.batches import generator
from ppo_pipeline.training.optimizer import trained_parameters
from ppo_pipeline.training.ppo import PPO

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@dataclass
class FirstStep:
    """What the update's first optimizer step used: its samples, loss terms, gradients before and after clipping."""

    rows: list[int] = field(default_factory=list)
    terms: dict[str, float] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    clipped: dict[str, Tensor] = field(default_factory=dict)


def watch(monkeypatch: pytest.MonkeyPatch) -> FirstStep:
    """Note the first step of the next update as it goes by; nothing of it is changed."""
    seen, step = FirstStep(), PPO._clip_and_step

    def gradients(ppo: PPO) -> dict[str, Tensor]:
        return {name: p.grad.clone() for name, p in trained_parameters(ppo.policy).items() if p.grad is not None}

    @functools.wraps(step)
    def noting(ppo: PPO, data: Any, indices: Any) -> None:
        first = not seen.gradients
        if first:
            tokens = sum(len(data.responses[i]) for i in indices)
            seen.rows = [int(i) for i in indices]
            seen.terms = {name: value / tokens for name, value in ppo.position.sums.items()}
            seen.gradients = gradients(ppo)
        step(ppo, data, indices)
        if first:
            seen.clipped = gradients(ppo)

    monkeypatch.setattr(PPO, "_clip_and_step", noting)
    return seen


def moved(path: Path, seed: int, scale: float) -> None:
    """Add noise to every tensor of a safetensors file."""
    noise = torch.Generator().manual_seed(seed)
    tensors = load_file(path)
    save_file(
        {n: t + scale * torch.randn(t.shape, generator=noise) for n, t in tensors.items()}, path, {"format": "pt"}
    )


def ran(project: Stages, monkeypatch: pytest.MonkeyPatch) -> FirstStep:
    for stage in ("rollout", "reward", "reference", "advantage"):
        project.run(stage, "r001")
    seen = watch(monkeypatch)
    project.run("update", "r001")
    return seen


def samples_of(project: Stages) -> list[Sample]:
    column = functools.partial(project.column, "r001/rollouts.parquet")
    scores = project.column("r001/rewards.parquet", "score")
    rows = zip(column("prompt_ids"), column("response_ids"), scores, strict=True)
    return [Sample(prompt, response, score) for prompt, response, score in rows]


def value_head(project: Stages, width: int = 32) -> nn.Linear:
    tensors = load_file(project.path("r000/trainer/value_head.safetensors"))
    head = nn.Linear(width, 1)
    head.load_state_dict({name.rpartition(".")[2]: tensor for name, tensor in tensors.items()})
    return head


def plain(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def same(found: list[float], wanted: list[float]) -> None:
    np.testing.assert_allclose(found, wanted, **CLOSE)


def agrees(project: Stages, samples: list[Sample], advantages: list[list[float]]) -> None:
    """Compare the tables of r001, number by number; `advantages` as the table is to hold them."""
    for i, sample in enumerate(samples):
        same(project.column("r001/reference.parquet", "policy_logprobs")[i], sample.old)
        same(project.column("r001/reference.parquet", "reference_logprobs")[i], sample.reference)
        same(project.column("r001/reference.parquet", "values")[i], sample.values)
        same([project.column("r001/reference.parquet", "bootstrap_value")[i]], [sample.value_after])
        same(project.column("r001/advantages.parquet", "token_rewards")[i], sample.rewards)
        same(project.column("r001/advantages.parquet", "returns")[i], sample.returns)
        same(project.column("r001/advantages.parquet", "advantages")[i], advantages[i])
    assert all(abs(sum(sample.kl)) > 1e-3 for sample in samples), "policy and base say the same: nothing is shown"


@pytest.fixture
def full(tmp_path: Path) -> Stages:
    """The full notebook's preset: a Qwen3 as a whole, a DeBERTa reward model."""
    save_reward_model(tmp_path / "reward-model", "deberta-v2", max_position_embeddings=512)

    def change(params: Any) -> None:
        (component,) = params["reward"]["components"]
        component.update(model="reward-model", device="cpu")
        params["sources"] = {"reward": "reward-model"}

    project = Stages(tmp_path, change, "qwen3", preset="notebook-full")
    project.run("init")
    moved(project.path("r000/policy/model.safetensors"), 1, 0.02)
    return project


@pytest.fixture
def lora(tmp_path: Path) -> Stages:
    """The LoRA notebook's preset: an adapter on a Qwen2, the four tasks."""
    project = Stages(tmp_path, lambda params: None, "qwen2", preset="notebook-lora")
    project.run("init")
    moved(project.path("r000/policy/adapter_model.safetensors"), 1, 0.1)
    return project


def test_the_full_notebook_s_round(full: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = ran(full, monkeypatch)
    samples, head = samples_of(full), value_head(full)
    assert len(samples) == 2 and not head.bias.any() and 0.003 < head.weight.std() < 0.03
    policy, reference = plain(full.path("r000/policy")), plain(full.folder / "data/base")
    look_back(policy, head, reference, samples, temperature=1.0)
    for sample in samples:
        sample.rewards = rewards_full(sample)
        gae(sample, gamma=0.99, lam=0.95, value_after=sample.value_after)
    agrees(full, samples, [sample.advantages for sample in samples])

    minibatch = [samples[i] for i in seen.rows]
    assert len(minibatch) == 1
    flat = normalised([a for sample in minibatch for a in sample.advantages])
    minibatch[0].advantages = flat
    terms = loss_terms(policy, head, minibatch, temperature=1.0, value_clip=None)
    same([seen.terms["loss/policy"], seen.terms["policy/entropy"]], [terms["policy"].item(), terms["entropy"].item()])
    same([2 * seen.terms["loss/value"]], [terms["value"].item()])  # ours is half the squared error
    (terms["policy"] + 0.5 * terms["value"] - 0.005 * terms["entropy"]).backward()
    parameters = dict(policy.named_parameters()) | {f"value_head.linear.{n}": p for n, p in head.named_parameters()}
    compare_gradients(seen, parameters, limit=0.5)


def test_the_lora_notebook_s_round(lora: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = ran(lora, monkeypatch)
    (sample,), head = samples_of(lora), value_head(lora)
    assert seen.rows == [0] and 0 < head.weight.abs().max() <= 32**-0.5 and head.bias.any()
    policy, reference = plain(lora.folder / "data/base"), plain(lora.folder / "data/base")
    adapter = load_file(lora.path("r000/policy/adapter_model.safetensors"))
    parameters = put_lora(policy, adapter, alpha=16, dropout=0.05)
    policy.eval()
    look_back(policy, head, reference, [sample], temperature=1.0)
    sample.rewards = rewards_lora(sample)
    gae(sample, gamma=1.0, lam=0.95, value_after=0.0)
    sample.advantages = normalised(sample.advantages)
    agrees(lora, [sample], [sample.advantages])

    for module in policy.modules():
        module.train(isinstance(module, nn.Dropout))
    rng = generator(42, "r001", "epoch", 0)
    torch.manual_seed(int(rng.integers(2**63)))  # dropout's
    places = -(-(len(sample.prompt) + len(sample.response)) // 16) * 16
    terms = loss_terms(policy, head, [sample], temperature=1.0, value_clip=0.2, places=places)
    same([seen.terms["loss/policy"], seen.terms["policy/entropy"]], [terms["policy"].item(), terms["entropy"].item()])
    same([seen.terms["loss/value"]], [terms["value"].item()])
    (terms["policy"] + 0.5 * terms["value"]).backward()
    named = {name.replace(".a", ".lora_A").replace(".b", ".lora_B"): p for name, p in parameters.items()}
    named |= {f"value_head.linear.{n}": p for n, p in head.named_parameters()}
    compare_gradients(seen, named, limit=1.0)


def compare_gradients(seen: FirstStep, parameters: dict[str, nn.Parameter], limit: float) -> None:
    """Compare every gradient to 1e-5 of the largest, and what clipping the norm to `limit` leaves of it."""
    wanted = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    assert seen.gradients.keys() == wanted.keys()
    largest = max(gradient.abs().max().item() for gradient in wanted.values())
    assert largest > 1e-4
    norm = torch.cat([gradient.flatten() for gradient in wanted.values()]).norm().item()
    scale = min(1.0, limit / norm)
    for name, gradient in wanted.items():
        tolerance = 1e-5 * max(1.0, largest)
        torch.testing.assert_close(seen.gradients[name], gradient, rtol=1e-5, atol=tolerance, msg=name)
        torch.testing.assert_close(seen.clipped[name], gradient * scale, rtol=1e-5, atol=1e-5, msg=name)


def test_the_full_notebook_s_score_is_of_prompt_and_response_as_one_text(full: Stages) -> None:
    full.run("rollout", "r001")
    full.run("reward", "r001")
    model = AutoModelForSequenceClassification.from_pretrained(full.folder / "reward-model", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(full.folder / "reward-model")
    rows = pq.read_table(full.path("r001/rollouts.parquet"), columns=["prompt_text", "response_text"]).to_pylist()
    with torch.no_grad():
        texts = [row["prompt_text"] + row["response_text"] for row in rows]
        wanted = [model(**tokenizer(text, return_tensors="pt")).logits.item() for text in texts]
    same(full.column("r001/rewards.parquet", "score"), wanted)


def test_the_lora_notebook_s_score(lora: Stages) -> None:
    lora.run("rollout", "r001")
    lora.run("reward", "r001")
    (text,) = lora.column("r001/rollouts.parquet", "response_text")
    (key,) = lora.column("r001/rollouts.parquet", "prompt_id")
    prompts = {row["prompt_id"]: row for row in pq.read_table(lora.folder / "data/prompts.parquet").to_pylist()}
    assert prompts[key]["messages"][0] == {"role": "system", "content": "You are a helpful assistant."}
    same(lora.column("r001/rewards.parquet", "score"), [rule_score(text, prompts[key]["expected"])])


def test_a_short_prompt_beside_a_long_one_is_continued_as_alone(full: Stages) -> None:
    """The full notebook pads on the right, where the sampler then goes on after padding, and cuts all responses where
    the longest prompt ends. Here each response is its own prompt's: its logprobs are those of prompt and response
    alone, and its text is not cut. By the notebook's way they are not, which shows that this test can fail."""
    full.run("rollout", "r001")
    full.run("reward", "r001")
    samples = samples_of(full)
    lengths = [len(sample.prompt) for sample in samples]
    assert len(set(lengths)) == 2, "both prompts are of one length: nothing is shown"
    policy = plain(full.path("r000/policy"))
    logprobs = full.column("r001/rollouts.parquet", "rollout_logprobs")
    for sample, found in zip(samples, logprobs, strict=True):
        look_back(policy, nn.Linear(32, 1), policy, [sample], temperature=1.0)
        same(found, sample.old)
    short = samples[int(np.argmin(lengths))]
    padded = Sample(short.prompt + [257] * (max(lengths) - min(lengths)), short.response)
    with torch.no_grad():
        look_back(policy, nn.Linear(32, 1), policy, [padded], temperature=1.0)
    assert np.abs(np.subtract(padded.old, short.old)).max() > 1e-2
