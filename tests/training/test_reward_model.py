"""Reward models: what the stage writes against plain transformers calls, its training against a plain torch loop."""

import json
import shutil
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from conftest import targets_of
from reward_pairs import NAME, OPEN_TEMPLATE, RewardProject, entry, pairs_table
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.prompts.rendering import render_all
from ppo_pipeline.resume.snapshots import Snapshots
from ppo_pipeline.rewards.model_inputs import tokenise
from ppo_pipeline.rewards.samples import Samples
from ppo_pipeline.rewards.types.model import ModelComponent
from ppo_pipeline.settings.reward_model_sections import RewardModel
from ppo_pipeline.storage.files import sha256_of
from ppo_pipeline.tables.preferences import PREFERENCES
from ppo_pipeline.tables.reward_model_eval import REWARD_MODEL_EVAL
from ppo_pipeline.training.reward_model.inputs import pair_inputs
from ppo_pipeline.training.supervised.loop import SupervisedLoop
from stages.reward_model import run as run_stage

SHOWN: dict[str, Any] = {"chat_template": "auto", "date": None, "special_tokens": "text"}


class Killed(BaseException):
    """In place of SIGKILL: nothing in between may catch it and tidy up."""


def plain_rewards(folder: Path, pairs: pa.Table, side: str, batch: int = 1) -> list[float]:
    """Return what transformers alone says of the pairs' answers, by the model's chat template."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    texts = [
        tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": answer}], tokenize=False)
        for messages, answer in zip(pairs.column("messages").to_pylist(), pairs.column(side).to_pylist(), strict=True)
    ]
    found: list[float] = []
    with torch.no_grad():
        for start in range(0, len(texts), batch):
            part = tokenizer(texts[start : start + batch], add_special_tokens=False, padding=True, return_tensors="pt")
            found += model(input_ids=part["input_ids"], attention_mask=part["attention_mask"]).logits[:, 0].tolist()
    return found


def component(folder: Path, **changes: Any) -> ModelComponent:
    values = {
        "type": "model", "name": "kind", "weight": 1.0, "model": str(folder), "revision": None, "ensemble": None,
        "pickled_weights": False, "input": "chat", "label": None, "output": "logit", "max_tokens": 120,
        "too_long": "error", "batch_tokens": 200, "device": "cpu", "dtype": "fp32",
    }  # fmt: skip
    return ModelComponent(**{**values, **changes})


def samples(pairs: pa.Table, side: str, prompt_texts: list[str] | None = None) -> Samples:
    ids = pairs.column("pair_id").to_pylist()
    texts = prompt_texts or [""] * len(ids)
    messages, answers = pairs.column("messages").to_pylist(), pairs.column(side).to_pylist()
    return Samples(ids, messages, texts, answers, [[0]] * len(ids), {})


def run_plainly(project: RewardProject) -> None:
    """Run the stage, with its error as it is raised."""
    with chdir(project.folder):
        run_stage(NAME)


def of_split(pairs: pa.Table, split: str) -> pa.Table:
    return pairs.filter(pc.equal(pairs.column("split"), split))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RewardProject:
    """An ensemble of two."""
    project = RewardProject(tmp_path_factory.mktemp("project"), members=2, epochs=3)
    said = project.run()
    assert "2 models, 12 steps" in said and "12 held-out pairs ordered rightly" in said
    return project


def test_its_rewards_are_those_of_a_plain_transformers_call_one_by_one_or_padded(trained: RewardProject) -> None:
    table = REWARD_MODEL_EVAL.read(trained.folder / f"data/reward_model_eval/{NAME}.parquet")
    pairs = PREFERENCES.read(trained.folder / "data/preferences/pairs.parquet")
    assert table.column("pair_id").to_pylist() == of_split(pairs, "heldout").column("pair_id").to_pylist()
    for side in ("chosen", "rejected"):
        both = np.array([plain_rewards(trained.model / str(number), table, side) for number in (1, 2)])
        assert table.column(f"{side}_rewards").to_pylist() == [pytest.approx(row, abs=1e-5) for row in both.T.tolist()]
        assert table.column(f"{side}_reward").to_pylist() == pytest.approx(both.mean(0), abs=1e-5)
        assert plain_rewards(trained.model / "1", table, side, batch=5) == pytest.approx(both[0], abs=1e-5)
        assert both[0] != pytest.approx(both[1], abs=0.02)


def test_the_mean_of_a_plain_call_over_the_training_answers_is_0(trained: RewardProject) -> None:
    pairs = of_split(PREFERENCES.read(trained.folder / "data/preferences/pairs.parquet"), "train")
    numbers = json.loads((trained.folder / f"metrics/reward_model/{NAME}.json").read_text())
    for number in (1, 2):
        folder = trained.model / str(number)
        found = np.array([plain_rewards(folder, pairs, side) for side in ("chosen", "rejected")])
        assert abs(found.mean()) < 1e-5 < abs(numbers[f"centre_{number}/shift"])
        assert found.std() > 0.3, "and they still tell answers apart"
        assert numbers[f"centre_{number}/spread"] < 0.4 * abs(numbers[f"centre_{number}/shift"])


def test_its_metrics_say_what_its_table_does(trained: RewardProject) -> None:
    numbers = json.loads((trained.folder / f"metrics/reward_model/{NAME}.json").read_text())
    table = REWARD_MODEL_EVAL.read(trained.folder / f"data/reward_model_eval/{NAME}.parquet").to_pydict()
    members = np.array([table["chosen_rewards"], table["rejected_rewards"]])  # (2, N, members)
    assert numbers["eval/accuracy"] == np.mean(members.mean(2)[0] > members.mean(2)[1]) > 0.9
    assert numbers["eval_worst/accuracy"] == np.mean(members.min(2)[0] > members.min(2)[1])
    assert numbers["eval_2/margin"] == pytest.approx(np.mean(members[0, :, 1] - members[1, :, 1]))
    assert numbers["eval/std"] == pytest.approx(members.std(2).mean())
    longer = np.array(table["chosen_tokens"]) - np.array(table["rejected_tokens"])
    letters = np.array([len(c) - len(r) for c, r in zip(table["chosen"], table["rejected"], strict=True)])
    assert longer.tolist() == letters.tolist()
    assert numbers["eval/longer_chosen"] == pytest.approx(np.mean(longer[longer != 0] > 0))
    rows = (trained.folder / f"metrics/reward_model/{NAME}.csv").read_text().splitlines()
    assert rows[0].startswith("member,step,epoch,loss,accuracy,margin,mean_reward") and len(rows) == 1 + 24
    assert numbers["train/pairs"] == 32 and numbers["train/steps"] == 12


def test_a_component_combines_the_members_and_records_how_far_they_are_apart(trained: RewardProject) -> None:
    pairs = PREFERENCES.read(trained.folder / "data/preferences/pairs.parquet").slice(0, 6)
    both = np.array([plain_rewards(trained.model / str(number), pairs, "chosen") for number in (1, 2)])
    given = samples(pairs, "chosen")
    alone = component(trained.model / "2").score_on(None, given, None)
    assert alone == {"kind": pytest.approx(both[1], abs=1e-5)}
    for how, combined in (("mean", both.mean(0)), ("worst", both.min(0))):
        found = component(trained.model, ensemble=how).score_on(None, given, None)
        assert found["kind"] == pytest.approx(combined, abs=1e-5)
        assert found["kind_std"] == pytest.approx(np.abs(both[0] - both[1]) / 2, abs=1e-5)
    assert component(trained.model, ensemble="mean").score(given) == pytest.approx(both.mean(0), abs=1e-5)
    with pytest.raises(PipelineError, match=r"no config\.json: no model there\. It has models 1, 2, \.\.\.: set ense"):
        component(trained.model).score(given)
    with pytest.raises(PipelineError, match=r"reward 'kind': ensemble: '.*' is a single model; set it to null"):
        component(trained.model / "1", ensemble="mean").score(given)


@pytest.mark.parametrize("how", ["chat", "concat"])
def test_it_learns_from_the_token_ids_that_a_reward_of_type_model_scores(tmp_path: Path, how: str) -> None:
    project = RewardProject(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(project.folder / "data/base")
    pairs, settings = pairs_table(6, 2), RewardModel(**entry(input=how))
    names = pairs.column("pair_id").to_pylist()
    found = pair_inputs(pairs, tokenizer, settings, SHOWN, names, "reward_model.kind")
    messages = pairs.column("messages").to_pylist()
    rendered = render_all(tokenizer, names, messages, limit=99, **SHOWN)
    for side in ("chosen", "rejected"):
        scored, _ = tokenise(
            component(tmp_path, input=how), tokenizer, samples(pairs, side, [text for text, _ in rendered])
        )
        assert getattr(found, side) == [item["input_ids"] for item in scored]
    assert found.chosen[0] != found.rejected[0]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_full_training_is_adamw_s_on_trl_s_loss_by_plain_calls(tmp_path: Path, architecture: str) -> None:
    """Two steps of all pairs, so that their order says nothing: in one padded batch here, packed in parts there."""
    pairs = pairs_table(6, 2, margin=[0.5, None, 1.5, None, 0.0, 2.0, None, None])
    # The template ends in the padding token, which no reward is read at.
    project = RewardProject(
        tmp_path, pairs, architecture, OPEN_TEMPLATE.replace("<|end|>.", "<|end|>"), tuning="full", centre=False,
        epochs=2, batch_size=6, microbatch_tokens=60, lr=0.003, lr_schedule="constant",
    )  # fmt: skip
    steps: list[dict[str, torch.Tensor]] = []
    first: dict[str, torch.Tensor] = {}

    def keep(loop: SupervisedLoop, *args: Any) -> None:
        if not first:
            first.update({name: p.detach().clone() for name, p in loop.parameters.items()})
        run(loop, *args)
        steps.append({name: p.detach().clone() for name, p in loop.parameters.items()})

    with pytest.MonkeyPatch.context() as patch:
        run = SupervisedLoop._step
        patch.setattr(SupervisedLoop, "_step", keep)
        project.run()

    folder = project.folder / "data/base"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32).eval()
    model.config.pad_token_id = tokenizer.pad_token_id
    with torch.no_grad():
        model.score.weight.copy_(first["score"])
    train = of_split(pairs, "train")
    talks = [
        [*m, {"role": "assistant", "content": a}]
        for side in ("chosen", "rejected")
        for m, a in zip(train.column("messages").to_pylist(), train.column(side).to_pylist(), strict=True)
    ]
    texts = tokenizer.apply_chat_template(talks, tokenize=False)
    batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    margins = torch.tensor([0.5, 0.0, 1.5, 0.0, 0.0, 2.0])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
    sure: dict[str, torch.Tensor] = {}
    for found in steps:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.squeeze(-1)
        chosen, rejected = logits.chunk(2)
        loss = -torch.nn.functional.logsigmoid(chosen - rejected - margins).mean()  # as TRL's RewardTrainer
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        named = dict(model.base_model.named_parameters()) | {"score": model.score.weight}
        assert set(found) == set(named)
        for name, parameter in named.items():  # AdamW makes whole steps of a gradient that is 0 but for rounding
            far = parameter.grad.abs() > 1e-5  # type: ignore[union-attr]
            sure[name] = far & sure.get(name, far)
            here = sure[name]
            torch.testing.assert_close(found[name][here], parameter.detach()[here], rtol=1e-3, atol=1e-4, msg=name)
    assert sum(int(here.sum()) for here in sure.values()) > 0.3 * sum(here.numel() for here in sure.values())
    written = load_file(project.model / "model.safetensors")
    assert torch.equal(written.pop("score.weight"), steps[-1].pop("score"))
    prefix = model.base_model_prefix
    assert {name.removeprefix(f"{prefix}.") for name in written} == set(steps[-1])
    assert all(torch.equal(tensor, steps[-1][name.removeprefix(f"{prefix}.")]) for name, tensor in written.items())


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_what_is_written_gives_the_rewards_that_were_trained(tmp_path: Path, architecture: str) -> None:
    targets = targets_of(architecture)
    project = RewardProject(
        tmp_path, pairs_table(6, 2), architecture, centre=False, use_rslora=True, target_modules=targets, epochs=2
    )
    tasks: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        run = SupervisedLoop.run
        patch.setattr(SupervisedLoop, "run", lambda loop, *args: (run(loop, *args), tasks.append(loop.task)))
        project.run()
    (task,) = tasks
    pairs = of_split(PREFERENCES.read(project.folder / "data/preferences/pairs.parquet"), "train")
    with torch.no_grad():
        batch = task.texts.sequences(np.arange(12), task.pad_id, torch.device("cpu"))
        rewards = task.policy.rewards(batch).tolist()
    expected = plain_rewards(project.model, pairs, "chosen") + plain_rewards(project.model, pairs, "rejected")
    assert rewards == pytest.approx(expected, abs=1e-5)
    assert np.std(rewards) > 0.01


def test_the_head_starts_as_transformers_draws_one_and_a_reward_model_keeps_its_own(tmp_path: Path) -> None:
    project = RewardProject(tmp_path, pairs_table(8, 2), epochs=1, lr=1e-9, centre=False)
    project.run()
    first = load_file(project.model / "model.safetensors")["score.weight"]
    assert first.std() == pytest.approx(0.02, rel=0.5) and abs(first.mean()) < 0.01
    project.set(epochs=1, lr=1e-9, centre=False, seed=1)
    project.run()
    again = load_file(project.model / "model.safetensors")["score.weight"]
    assert not torch.allclose(again, first, atol=1e-3)
    project.model.rename(project.folder / "before")
    project.set(epochs=1, lr=1e-9, centre=False, seed=2, model="before")
    project.run()
    kept = load_file(project.model / "model.safetensors")["score.weight"]
    torch.testing.assert_close(kept, again, atol=1e-6, rtol=0)


def test_members_are_the_same_bits_each_time_alone_or_killed_between_any_two_microbatches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"epochs": 1, "batch_size": 2, "dropout": 0.2, "microbatch_tokens": 40}
    project = RewardProject(tmp_path, pairs_table(4, 2), members=2, **how)

    def hashes() -> dict[str, str]:
        outs = [*project.model.rglob("*"), *project.folder.glob("data/*eval/*"), *project.folder.glob("metrics/*/*")]
        return {path.name + path.parent.name: sha256_of(path) for path in outs if path.is_file()}

    project.run()
    whole, weights = hashes(), sha256_of(project.model / "1/model.safetensors")
    for name in ("scratch", "reward_model"):
        shutil.rmtree(project.folder / "data" / name)
    monkeypatch.setattr(Snapshots, "_pause", lambda self: 0.0)
    made = SupervisedLoop._microbatch
    left = 0

    def until_killed(loop: SupervisedLoop, *args: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        made(loop, *args)

    monkeypatch.setattr(SupervisedLoop, "_microbatch", until_killed)
    kills = 0
    while True:
        left = 3  # of two steps of two pairs, each a microbatch
        try:
            said = project.run()
            break
        except Killed:
            kills += 1
            assert kills < 20
    assert kills >= 2 and "goes on from a snapshot" in said
    assert hashes() == whole
    monkeypatch.undo()
    shutil.rmtree(project.folder / "data/scratch")
    project.set(members=1, **how)
    project.run()
    assert sha256_of(project.model / "model.safetensors") == weights


def test_bad_pairs_and_settings_are_named_before_training(tmp_path: Path) -> None:
    pairs = pairs_table(4, 2)
    long = pairs.set_column(4, "rejected", pa.array(["b" * (90 if i == 2 else 5) for i in range(6)]))
    project = RewardProject(tmp_path, long, max_tokens=60)

    def refused(**changes: Any) -> str:
        project.set(**changes)
        with pytest.raises(PipelineError) as error:
            run_plainly(project)
        return str(error.value.message)

    place = "data/preferences/pairs.parquet: pair 'p2'"
    assert refused(max_tokens=60).startswith(
        f"{place}: an answer with its prompt is longer than reward_model.kind.max_t"
    )
    assert "reward_model.kind.max_tokens: 999, the model has 256 positions" in refused(max_tokens=999)
    assert "score' is the reward's head" in refused(target_modules=["score"])
    assert "reward_model.kind.target_modules" in refused(target_modules=["q_prj"])
    assert "'data/gone' has no config.json" in refused(model="data/gone")
    assert "no 'others' in `preferences`" in refused(preferences="others")
    project.set(max_tokens=60, too_long="skip", epochs=1)
    assert "1 training pairs left out, longer than max_tokens" in project.run()
    numbers = json.loads((project.folder / f"metrics/reward_model/{NAME}.json").read_text())
    assert (numbers["train/pairs"], numbers["train/skipped"]) == (3, 1)
