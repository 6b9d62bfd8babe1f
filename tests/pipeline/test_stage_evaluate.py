"""Stage `evaluate` with sampled answers: plain forwards draw the same, and the greedy answers are as without them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_tokenizer
from stage_runs import Stages
from transformers import AutoModelForCausalLM

from ppo_pipeline.rewards.samples import Samples
from ppo_pipeline.rewards.scoring import score_samples
from ppo_pipeline.sampling.streams import uniforms
from ppo_pipeline.settings.params import load_params
from ppo_pipeline.tables.evaluation import EVALUATION_SAMPLES

TEMPERATURE, TOP_K, COUNT = 1.3, 50, 5


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """A project with two held-out prompts, and the untrained policy."""

    def change(params: Any) -> None:
        params["rollout"].update(temperature=TEMPERATURE, top_k=TOP_K)
        params["evaluate"].update(samples_per_prompt=COUNT, batch_size=3)

    made = Stages(tmp_path_factory.mktemp("project"), change)
    made.run("init")
    return made


@pytest.fixture(scope="module")
def said(stages: Stages) -> str:
    return stages.run("baseline")


def edit(stages: Stages, before: str, after: str) -> None:
    path = stages.folder / "params.yaml"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    stages.run("settings")


def drawn(model: Any, prompt: list[int], numbers: Any) -> list[int]:
    """Draw a response by a forward of everything for each token."""
    ids: list[int] = []
    for number in numbers:
        with torch.no_grad():
            logits = model(torch.tensor([prompt + ids])).logits[0, -1].double() / TEMPERATURE
        kept = torch.where(logits >= logits.topk(TOP_K).values[-1], logits.softmax(-1), 0)
        ids.append(int((kept.cumsum(-1) <= number * kept.sum()).sum()))
        if ids[-1] == model.config.eos_token_id:
            break
    return ids


def test_sampled_answers_are_drawn_as_the_rollout_draws(stages: Stages, said: str) -> None:
    table = EVALUATION_SAMPLES.read(stages.path("r000/eval_samples.parquet")).to_pylist()
    prompts = stages.column("r000/eval.parquet", "prompt_id")
    assert [(row["prompt_id"], row["sample_index"]) for row in table] == [(p, k) for p in prompts for k in range(COUNT)]
    model = AutoModelForCausalLM.from_pretrained(stages.folder / "data/base", dtype=torch.float32)
    for row in table:
        ids = tiny_tokenizer()(row["prompt_text"], add_special_tokens=False)["input_ids"]
        numbers = uniforms(0, f"eval-{row['prompt_id']}-{row['sample_index']}", 6)
        assert row["response_ids"] == drawn(model, ids, numbers)
        assert row["sample_id"] == f"eval-{row['prompt_id']}-{row['sample_index']}"
    assert len({tuple(row["response_ids"]) for row in table}) == len(table)
    assert "2 greedy and 10 sampled answers to held-out prompts in" in said


def test_metrics_are_the_tables(stages: Stages, said: str) -> None:
    metrics = stages.metrics("r000")
    scores = np.array(stages.column("r000/eval_samples.parquet", "score")).reshape(2, COUNT)
    assert metrics["eval/sampled_scores"] == pytest.approx(scores.mean())
    first, second = scores.mean(axis=1)
    assert metrics["eval/sampled_scores_se"] == pytest.approx(abs(first - second) / 2)
    greedy = stages.column("r000/eval.parquet", "score")
    assert metrics["eval/scores_se"] == pytest.approx(abs(greedy[0] - greedy[1]) / 2)
    assert {f"eval/pass@{k}" for k in (1, 2, 4, 5)} < metrics.keys()
    assert f"mean score {np.mean(greedy):+.3f} (+- {metrics['eval/scores_se']:.3f}), right 0.000 (+- 0.000)" in said


def test_the_greedy_answers_are_those_of_a_stage_that_samples_none(stages: Stages, said: str) -> None:
    """And with none, the rollout's temperature changes nothing of the stage."""
    path, settings = stages.path("r000/eval.parquet"), stages.folder / "data/settings/r000/evaluate.json"
    with_samples, metrics = path.read_bytes(), stages.metrics("r000")
    sampling = settings.read_text()
    edit(stages, f"  samples_per_prompt: {COUNT}\n", "  samples_per_prompt: 0\n")
    without = settings.read_text()
    assert '"sampling": null' in without
    assert "10 sampled" not in stages.run("baseline")
    assert path.read_bytes() == with_samples
    assert EVALUATION_SAMPLES.read(stages.path("r000/eval_samples.parquet")).num_rows == 0
    of_samples = {name for name in metrics if "sampled" in name or "pass@" in name or name == "eval/majority"}
    assert stages.metrics("r000") == {name: metrics[name] for name in metrics.keys() - of_samples}
    edit(stages, f"temperature: {TEMPERATURE}", "temperature: 0.5")
    assert settings.read_text() == without
    edit(stages, "  samples_per_prompt: 0\n", f"  samples_per_prompt: {COUNT}\n")
    assert settings.read_text() == sampling.replace(f"{TEMPERATURE}", "0.5")


class Kept:
    """Stands for the scratch: takes note of the parts that are asked for."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def part(self, name: str) -> None:
        self.parts.append(name)


def test_what_is_kept_of_the_sampled_answers_scores_is_not_the_greedy_ones() -> None:
    reward = load_params(Path(__file__).resolve().parents[2] / "params.yaml").reward
    kept: Any = Kept()
    for part in ("", "sampled-"):
        score_samples(reward, Samples([], [], [], [], [], {"expected": [], "exact_case": []}), kept, part=part)
    assert len(set(kept.parts)) == len(kept.parts) == 2 * len(reward.components)
