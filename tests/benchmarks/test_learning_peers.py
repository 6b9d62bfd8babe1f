"""The peers that learn are given what the project's own stages have: prompts, reward, held-out answers, settings."""

import argparse
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from stage_runs import REPOSITORY, Stages, right_up_to

from benchmarks.peers.learning_record import Record, ended, greedy, means
from benchmarks.peers.learning_task import Task, arguments
from benchmarks.peers.learning_trl_settings import DOCS, settings_of
from ppo_pipeline.models.loading import load_model, stop_ids_of
from ppo_pipeline.settings.params import Params, load_params


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """Return a project with a sampled and scored round, some of whose responses end by themselves."""

    def change(params: Any) -> None:
        params["rollout"].update(temperature=2.0, samples_per_prompt=8, max_new_tokens=40)
        params["evaluate"]["max_new_tokens"] = 40
        right_up_to(params, 25)

    folder = tmp_path_factory.mktemp("project")
    (folder / "data").mkdir()
    stages = Stages(folder, change)
    stages.run("init")
    for stage in ("rollout", "reward"):
        stages.run(stage, "r001")
    stages.run("evaluate", "r000")
    return stages


@pytest.fixture(scope="module")
def task(project: Stages) -> Task:
    folder = project.folder
    return Task.read(folder / "data/base", folder / "data/prompts.parquet", folder / "params.yaml")


def test_a_peer_s_samples_are_scored_as_the_stage_reward_scores_them(project: Stages, task: Task) -> None:
    rollouts = pq.read_table(project.path("r001/rollouts.parquet")).to_pydict()
    rewards = pq.read_table(project.path("r001/rewards.parquet")).to_pydict()
    assert set(rollouts["finish_reason"]) == {"stop", "length"}
    stops = [task.tokenizer.eos_token_id]
    found = task.score(rollouts["prompt_id"], rollouts["response_ids"], stops)
    assert len(set(found["correct"])) == 2
    for name in ("score", "answer", "near", "correct"):
        assert found[name] == pytest.approx([float(x) for x in rewards[name]]), name
    assert means({"score": [1.0, 2.0]}) == {"score": 1.5}


def test_a_peer_is_asked_the_held_out_prompts_as_the_stage_evaluate_asks_them(project: Stages, task: Task) -> None:
    evaluated = pq.read_table(project.path("r000/eval.parquet")).to_pydict()
    names = task.split("heldout").column("prompt_id").to_pylist()
    model = load_model(task.base, "cpu", "auto")
    stops = stop_ids_of(model, task.tokenizer)
    model.train()
    prompts = [task.ids[name] for name in names]
    answers = greedy(model, prompts, stops, 40, batch=2)
    assert model.training
    uneven = [*prompts, prompts[0] + prompts[1][-3:]]
    alone = [greedy(model, [prompt], stops, 40, batch=1)[0] for prompt in uneven]
    assert greedy(model, uneven, stops, 40, batch=3) == alone
    assert (names, answers) == (evaluated["prompt_id"], evaluated["response_ids"])
    assert [task.texts[name] for name in names] == evaluated["prompt_text"]


def test_a_response_ends_with_its_first_stop_token() -> None:
    assert ended([5, 2, 9, 2], [2, 9]) == [5, 2]
    assert ended([5, 6], [2]) == [5, 6]


class Clock(Record):
    """A record whose clock a test moves."""

    now = 0.0

    def _now(self) -> float:
        return self.now


def test_the_clock_stands_still_while_the_model_is_looked_at() -> None:
    record = Clock.__new__(Clock)
    record._start, record._aside, record.now = 100.0, 0.0, 103.0
    with record.aside():
        record.now = 150.0
    record.now = 152.0
    assert record.seconds == 5.0


def params() -> Params:
    return load_params(REPOSITORY / "params.yaml")


def test_ours_follow_params_yaml_and_make_as_many_steps_to_an_update() -> None:
    changed = params().model_dump(by_alias=True)
    changed["update"].update(epochs=3, minibatches=4, lr=0.01, loss_normalization="fixed_length", max_grad_norm=None)
    changed["advantage"].update(kl_coef=0.2, gamma=0.9, **{"lambda": 0.8}, whiten_advantages="none")
    changed["rollout"]["temperature"] = 1.25
    ours = Params.model_validate(changed)
    ppo, grpo, rloo = (settings_of(name, "ours", ours, 64, 5) for name in ("ppo", "grpo", "rloo"))
    for found in (ppo, grpo, rloo):
        assert (found["learning_rate"], found["temperature"], found["max_grad_norm"]) == (0.01, 1.25, 0.0)
    assert (ppo["num_ppo_epochs"], ppo["num_mini_batches"], ppo["total_episodes"]) == (3, 4, 320)
    assert (ppo["kl_coef"], ppo["gamma"], ppo["lam"]) == (0.2, 0.9, 0.8)
    assert (grpo["per_device_train_batch_size"], grpo["steps_per_generation"], grpo["max_steps"]) == (16, 4, 60)
    assert (grpo["beta"], grpo["loss_type"], rloo["beta"], rloo["normalize_advantages"]) == (0.2, "dr_grpo", 0.2, False)


@pytest.mark.parametrize("trainer", list(DOCS))
def test_docs_leave_params_yaml_only_the_task_s_own_settings(trainer: str) -> None:
    found = settings_of(trainer, "docs", params(), 64, 5)
    assert found.items() >= DOCS[trainer].items()
    assert (found["temperature"], found["per_device_train_batch_size"]) == (0.7, 64)
    assert found.get("max_steps", 5) == 5


def test_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    needed = ["--base", "b", "--prompts", "p", "--params", "y", "--out", "o"]
    given = arguments("about").parse_args(needed)
    assert given == argparse.Namespace(
        base=Path("b"), prompts=Path("p"), params=Path("y"), out=Path("o"), rounds=20, samples=64, evaluate_every=4,
        seed=0, settings="docs", lr=None, device="cpu",
    )  # fmt: skip
    with pytest.raises(SystemExit):
        arguments("about").parse_args([*needed, "--settings", "theirs"])
    assert "'theirs'" in capsys.readouterr().err
