"""Both notebooks' presets through the real dvc, with small random models of their architectures in place of the hub's.

Only the models, the number of prompts and, for LoRA, of tokens are other than committed.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import save_tiny
from dvc_project import REPOSITORY, ProjectCopy, finish, stages_run
from reward_models import save_reward_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from ppo_pipeline.rewards.rule import normalise

pytestmark = pytest.mark.slow

ROUND = ("rollout", "reward", "reference", "advantage", "update", "evaluate")


class Preset(ProjectCopy):
    """A preset as the command applies it, on the CPU in fp32, with the first prompts of its set."""

    def __init__(self, folder: Path, name: str, architecture: str, prompts: str, rounds: int) -> None:
        super().__init__(folder)
        self.run("ppo-pipeline", "preset", name)
        save_tiny(folder / "model", architecture)
        (folder / "data/prompts").mkdir()
        lines = (REPOSITORY / "data/prompts" / prompts).read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / "data/prompts" / prompts).write_text("".join(lines[:10]), encoding="utf-8")  # each fifth is held out
        self.change("base.model", "model")
        self.change("sources", {"base": "model"})
        self.change(
            "compute", {"device": "cpu", "dtype": "fp32", "threads": 1, "kernels": "auto", "batch_invariant": False}
        )
        self.change("rounds", {f"r{i:03d}": {"parent": f"r{i - 1:03d}"} for i in range(1, rounds + 1)})

    def table(self, name: str) -> dict[str, list[Any]]:
        return pq.read_table(self.folder / "data/rounds" / name).to_pydict()  # type: ignore[no-any-return]

    def metrics(self, name: str) -> dict[str, float]:
        return json.loads((self.folder / "metrics/stages" / name).read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Preset, Preset]:
    """Return both projects, run side by side: most of a small stage's time is Python's start."""
    full = Preset(tmp_path_factory.mktemp("full"), "notebook-full", "qwen3", "chinese.jsonl", 2)
    save_reward_model(full.folder / "reward-model", "deberta-v2", max_position_embeddings=512)
    for setting, value in {"model": "reward-model", "device": "cpu", "dtype": "fp32"}.items():
        full.change(f"reward.components.0.{setting}", value)
    full.change("sources.reward", "reward-model")
    lora = Preset(tmp_path_factory.mktemp("lora"), "notebook-lora", "qwen2", "english.jsonl", 1)
    lora.change("rollout.prompts_per_round", 8)
    lora.change("rollout.max_new_tokens", 12)
    lora.change("evaluate.max_new_tokens", 12)
    running: list[subprocess.Popen[str]] = [
        full.start("dvc", "repro", "evaluate@r001", "advantage@r002"),
        lora.start("dvc", "repro"),
    ]
    full.ran, lora.ran = [stages_run(finish(process)) for process in running]
    return full, lora


@pytest.fixture
def full(presets: tuple[Preset, Preset]) -> Preset:
    return presets[0]


@pytest.fixture
def lora(presets: tuple[Preset, Preset]) -> Preset:
    return presets[1]


def test_every_stage_runs(full: Preset, lora: Preset) -> None:
    shared = {"code", "source@base", "settings", "base", "prompts", "init"}
    first = {f"{stage}@r001" for stage in ROUND}
    assert full.ran == shared | {"source@reward"} | first | {f"{stage}@r002" for stage in ROUND[:4]}
    assert lora.ran == shared | first | {"baseline", "summary"}


def test_full_tuning_trains_every_weight_and_writes_a_plain_model(full: Preset) -> None:
    folder, base = full.folder / "data/rounds/r001/policy", full.folder / "model"
    assert not (folder / "adapter_config.json").exists()
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert model.lm_head.weight is model.model.embed_tokens.weight  # tied, as the base is
    trained = dict(model.named_parameters())
    before = dict(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).named_parameters())
    assert trained.keys() == before.keys()
    moved = {name: (trained[name] - before[name]).abs().max().item() for name in before}
    assert all(moved.values()), [name for name, distance in moved.items() if not distance]
    # Adam's steps are about lr each: 4 epochs x 2 minibatches of 1e-5, twice that to be safe
    assert max(moved.values()) < 2 * 8 * 1e-5


def test_full_tuning_samples_rounds_of_2_prompts_in_plain_text(full: Preset) -> None:
    for name in ("r001", "r002"):
        rollouts = full.table(f"{name}/rollouts.parquet")
        assert len(rollouts["sample_id"]) == 2
        assert all(1 <= len(ids) <= 50 for ids in rollouts["response_ids"])
        assert all("<|" not in text for text in rollouts["prompt_text"])
        assert min(min(mass) for mass in rollouts["kept_mass"]) < 1  # top_k and top_p were at work
    assert full.metrics("r001/update.json")["policy/steps"] == 8


def test_full_tuning_s_scores_are_the_reward_model_s_logits_of_the_pairs(full: Preset) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(full.folder / "reward-model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(full.folder / "reward-model")
    rollouts, rewards = full.table("r001/rollouts.parquet"), full.table("r001/rewards.parquet")
    assert set(rewards) == {"sample_id", "score", "helpful"}
    with torch.no_grad():
        wanted = [
            model.eval()(**tokenizer(prompt, response, return_tensors="pt")).logits.item()
            for prompt, response in zip(rollouts["prompt_text"], rollouts["response_text"], strict=True)
        ]
    assert rewards["helpful"] == pytest.approx(wanted, abs=1e-4)
    assert rewards["score"] == rewards["helpful"]


def test_full_tuning_s_kl_is_0_at_first_and_then_enters_once_per_sequence(full: Preset) -> None:
    assert full.metrics("r001/advantage.json")["objective/kl"] == 0.0
    assert full.metrics("r001/update.json")["val/ratio_first_max_deviation"] < 1e-5
    reference, scores = full.table("r002/reference.parquet"), full.table("r002/rewards.parquet")["score"]
    sums = [
        float(np.subtract(policy, base, dtype=np.float64).sum())
        for policy, base in zip(reference["policy_logprobs"], reference["reference_logprobs"], strict=True)
    ]
    assert all(sums), "the trained policy is the base still, or the reference follows it"
    assert full.metrics("r002/advantage.json")["objective/kl"] == pytest.approx(np.mean(sums), rel=1e-6)
    for rewards, score, kl in zip(full.table("r002/advantages.parquet")["token_rewards"], scores, sums, strict=True):
        assert rewards[-1] == pytest.approx(score - 0.05 * kl, rel=1e-6)
        assert not any(rewards[:-1])


def test_lora_writes_an_adapter_that_peft_loads(lora: Preset) -> None:
    from peft import PeftModel

    folder = lora.folder / "data/rounds/r001/policy"
    base = AutoModelForCausalLM.from_pretrained(lora.folder / "model", dtype=torch.float32)
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        before = base(ids).logits
        model = PeftModel.from_pretrained(base, folder)
        after = model(ids).logits
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha) == (8, 16)
    assert len(load_file(folder / "adapter_model.safetensors")) == 2 * 7 * base.config.num_hidden_layers
    assert type(base).__name__ == "Qwen2ForCausalLM"
    assert 0 < (after - before).abs().max() < 1


def test_lora_s_prompts_are_in_the_chat_template_and_its_scores_the_notebook_s_rule(lora: Preset) -> None:
    rollouts, rewards = lora.table("r001/rollouts.parquet"), lora.table("r001/rewards.parquet")
    assert set(rewards) == {"sample_id", "score", "notebook"}
    prompts = {json.loads(line)["prompt_id"]: json.loads(line) for line in committed_prompts(lora)}
    assert len(rollouts["sample_id"]) == 8
    for i, prompt_id in enumerate(rollouts["prompt_id"]):
        prompt = prompts[prompt_id]
        assert rollouts["prompt_text"][i] == "".join(
            f"<|{message['role']}|>{message['content']}<|end|>" for message in prompt["messages"]
        ) + ("<|assistant|>")
        text = normalise(rollouts["response_text"][i])
        found = 1.0 if prompt["expected"] in text else -1.0
        assert rewards["notebook"][i] == pytest.approx(found - 0.002 * len(text))
    assert rewards["score"] == rewards["notebook"]


def committed_prompts(preset: Preset) -> list[str]:
    return (preset.folder / "data/prompts/english.jsonl").read_text(encoding="utf-8").splitlines()


def test_lora_starts_at_kl_0_and_ratio_1_and_trains_with_checkpointing(lora: Preset) -> None:
    assert lora.metrics("r001/advantage.json")["objective/kl"] == 0.0
    update = lora.metrics("r001/update.json")
    assert update["val/ratio_first"] == pytest.approx(1.0, abs=1e-6)
    assert update["val/ratio_first_max_deviation"] < 1e-5
    assert update["policy/steps"] == 16
    assert update["policy/grad_norm"] > 0
    assert json.loads((lora.folder / "data/settings/r001/update.json").read_text())["update"]["gradient_checkpointing"]
    assert len(lora.table("r001/eval.parquet")["prompt_id"]) == 2
