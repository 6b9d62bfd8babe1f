"""Both notebooks' presets through the real dvc, with small random models of their architectures in place of the hub's.

Only the models are other than committed, the machine (CPU, fp32), and how many rounds are run: the scaled variant's
samples are fewer and shorter too.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import save_tiny
from dvc_project import REPOSITORY, ProjectCopy, finish, stages_run
from notebook_arithmetic import rule_score
from reward_models import save_reward_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

pytestmark = pytest.mark.slow

ROUND = ("rollout", "reward", "reference", "advantage", "update", "evaluate")


class Preset(ProjectCopy):
    """A preset as the command applies it, on the CPU in fp32, its first rounds alone."""

    def __init__(self, folder: Path, architecture: str, rounds: int, *name: str) -> None:
        super().__init__(folder)
        shutil.copytree(REPOSITORY / "data/prompts", folder / "data/prompts")
        self.run("ppo-pipeline", "preset", *name)
        save_tiny(folder / "model", architecture)
        self.change("base.model", "model")
        self.change("sources", {"base": "model"})
        for setting, value in {"device": "cpu", "dtype": "fp32", "threads": 1}.items():
            self.change(f"compute.{setting}", value)
        self.change("rounds", {f"r{i:03d}": {"parent": f"r{i - 1:03d}"} for i in range(1, rounds + 1)})

    def table(self, name: str) -> dict[str, list[Any]]:
        return pq.read_table(self.folder / "data/rounds" / name).to_pydict()  # type: ignore[no-any-return]

    def metrics(self, name: str) -> dict[str, float]:
        return json.loads((self.folder / "metrics/stages" / name).read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Preset, Preset, Preset]:
    """Return the projects, run side by side: most of a small stage's time is Python's start."""
    full = Preset(tmp_path_factory.mktemp("full"), "qwen3", 2, "notebook-full")
    save_reward_model(full.folder / "reward-model", "deberta-v2", max_position_embeddings=512)
    for setting, value in {"model": "reward-model", "device": "cpu", "dtype": "fp32"}.items():
        full.change(f"reward.components.0.{setting}", value)
    full.change("sources.reward", "reward-model")
    lora = Preset(tmp_path_factory.mktemp("lora"), "qwen2", 2, "notebook-lora")
    scaled = Preset(tmp_path_factory.mktemp("scaled"), "qwen2", 1, "notebook-lora", "--scaled")
    scaled.change("rollout.samples_per_prompt", 3)
    scaled.change("rollout.max_new_tokens", 12)
    scaled.change("evaluate.max_new_tokens", 12)
    running: list[subprocess.Popen[str]] = [
        full.start("dvc", "repro", "evaluate@r001", "advantage@r002"),
        lora.start("dvc", "repro", "update@r002"),
        scaled.start("dvc", "repro"),
    ]
    full.ran, lora.ran, scaled.ran = [stages_run(finish(process)) for process in running]
    return full, lora, scaled


@pytest.fixture
def full(presets: tuple[Preset, ...]) -> Preset:
    return presets[0]


@pytest.fixture
def lora(presets: tuple[Preset, ...]) -> Preset:
    return presets[1]


@pytest.fixture
def scaled(presets: tuple[Preset, ...]) -> Preset:
    return presets[2]


def test_every_stage_runs(full: Preset, lora: Preset, scaled: Preset) -> None:
    shared = {"code", "source@base", "settings", "base", "prompts", "init"}
    first = {f"{stage}@r001" for stage in ROUND}
    assert full.ran == shared | {"source@reward"} | first | {f"{stage}@r002" for stage in ROUND[:4]}
    assert lora.ran == shared | {f"{stage}@{name}" for stage in ROUND[:5] for name in ("r001", "r002")}
    assert scaled.ran == shared | first | {"baseline", "summary"}


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
    # Adam's steps are about lr each: 2 epochs x 2 minibatches of 5e-6, twice that to be safe
    assert max(moved.values()) < 2 * 4 * 5e-6


def test_full_tuning_samples_rounds_of_2_prompts_in_plain_text(full: Preset) -> None:
    for name in ("r001", "r002"):
        rollouts = full.table(f"{name}/rollouts.parquet")
        assert len(rollouts["sample_id"]) == 2
        assert all(1 <= len(ids) <= 50 for ids in rollouts["response_ids"])
        assert all("<|" not in text for text in rollouts["prompt_text"])
        assert min(min(mass) for mass in rollouts["kept_mass"]) < 1  # top_k and top_p were at work
    assert full.metrics("r001/update.json")["policy/steps"] == 4


def test_full_tuning_s_scores_are_the_reward_model_s_logits_of_the_joined_texts(full: Preset) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(full.folder / "reward-model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(full.folder / "reward-model")
    rollouts, rewards = full.table("r001/rollouts.parquet"), full.table("r001/rewards.parquet")
    assert set(rewards) == {"sample_id", "score", "correct", "helpful"}
    with torch.no_grad():
        wanted = [
            model.eval()(**tokenizer(prompt + response, return_tensors="pt")).logits.item()
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
        assert rewards[-1] == pytest.approx(score - 0.1 * kl, rel=1e-6)
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


def test_lora_s_prompts_are_in_the_chat_template_and_its_scores_the_notebook_s_rule(scaled: Preset) -> None:
    rollouts, rewards = scaled.table("r001/rollouts.parquet"), scaled.table("r001/rewards.parquet")
    assert set(rewards) == {"sample_id", "score", "correct", "notebook"}
    lines = (scaled.folder / "data/prompts/tasks-chinese.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = {json.loads(line)["prompt_id"]: json.loads(line) for line in lines}
    assert len(rollouts["sample_id"]) == 4 * 3 and len(set(rollouts["prompt_id"])) == 4
    for i, prompt_id in enumerate(rollouts["prompt_id"]):
        asked = f"<|user|>{prompts[prompt_id]['prompt']}<|end|><|assistant|>"
        assert rollouts["prompt_text"][i] == f"<|system|>You are a helpful assistant.<|end|>{asked}"
        score = rule_score(rollouts["response_text"][i], prompts[prompt_id]["expected"])
        # A random text may hold a number's sign or point, which ours keeps: two characters at most are allowed for.
        assert rewards["notebook"][i] == pytest.approx(score, abs=0.002 * 2 + 1e-6)
    assert rewards["score"] == rewards["notebook"]


def test_lora_s_rounds_have_one_response_and_two_steps_each(lora: Preset) -> None:
    for name in ("r001", "r002"):
        assert len(lora.table(f"{name}/rollouts.parquet")["sample_id"]) == 1
        assert lora.metrics(f"{name}/update.json")["policy/steps"] == 2
    first, second = (lora.table(f"{name}/rollouts.parquet")["prompt_id"] for name in ("r001", "r002"))
    assert first != second


def test_scaled_starts_at_kl_0_and_ratio_1(scaled: Preset) -> None:
    assert scaled.metrics("r001/advantage.json")["objective/kl"] == 0.0
    update = scaled.metrics("r001/update.json")
    assert update["val/ratio_first"] == pytest.approx(1.0, abs=1e-6)
    assert update["val/ratio_first_max_deviation"] < 1e-5
    assert update["policy/steps"] == 8


def test_lora_starts_at_kl_0_and_trains_with_dropout_and_checkpointing(lora: Preset) -> None:
    assert lora.metrics("r001/advantage.json")["objective/kl"] == 0.0
    update = lora.metrics("r001/update.json")
    assert update["val/ratio_first_max_deviation"] < 1e-5  # with B still 0, dropout changes nothing
    assert update["policy/grad_norm"] > 0
    assert lora.metrics("r002/update.json")["policy/grad_norm"] > 0
    assert json.loads((lora.folder / "data/settings/r001/update.json").read_text())["update"]["gradient_checkpointing"]


def test_held_out_are_the_four_other_tasks(scaled: Preset) -> None:
    assert len(scaled.table("r001/eval.parquet")["prompt_id"]) == 4
