"""Supervised fine-tuning: its loss against plain transformers, its model against PEFT, its stage."""

import csv
import json
import re
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import lora_policy, save_tiny, targets_of, tiny_model, tiny_tokenizer
from safetensors.torch import load_file
from sft_project import sft_project
from stage_runs import Stages
from supervised_entries import VALUES, supervised_settings
from tiny_models import tiny_model as model_of_kind
from transformers import AutoModelForCausalLM

from ppo_pipeline.models.adapter import adapter_config, save_policy
from ppo_pipeline.models.merged import write_merged
from ppo_pipeline.models.policy import Policy
from ppo_pipeline.observe.counter import Counter
from ppo_pipeline.prompts.taught import TaughtRow
from ppo_pipeline.resume.snapshots import Snapshots
from ppo_pipeline.storage.files import sha256_of
from ppo_pipeline.training.supervised.answers import Answers
from ppo_pipeline.training.supervised.loop import SupervisedLoop
from ppo_pipeline.training.supervised.tuning import dropout_on
from stages.__main__ import main

ROWS = [
    TaughtRow("a.jsonl, row 1", [5, 9, 40, 7, 257, 11, 90, 257], [(2, 5), (6, 8)]),
    TaughtRow("a.jsonl, row 2", [8, 3, 12, 257], [(3, 4)]),
    TaughtRow("a.jsonl, row 3", [*range(30, 50), 257], [(10, 21)]),
]


def plain_loss(model: Any, rows: list[TaughtRow]) -> torch.Tensor:
    """Return transformers' own loss, labels of -100 elsewhere, summed over the tokens of one row after the other."""
    total = torch.zeros(())
    for row in rows:
        labels = torch.full((1, len(row.ids)), -100)
        for start, end in row.spans:
            labels[0, start:end] = torch.tensor(row.ids[start:end])
        total = total + model(input_ids=torch.tensor([row.ids]), labels=labels).loss * row.taught
    return total


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral"])
def test_loss_and_gradient_are_transformers_with_labels_of_minus_100(kind: str) -> None:
    made = model_of_kind if kind == "mistral" else tiny_model
    model, other = made(kind), made(kind)
    answers = Answers(Policy(model.requires_grad_(True), {}), ROWS, 1000)
    assert answers.packed is (kind != "mistral")  # its window is narrower than its positions: rows are padded
    assert [part.tolist() for part in answers.microbatches(np.arange(3))] == [[2, 0, 1]]
    loss, _ = answers.loss(np.array([2, 0, 1]))
    loss.backward()
    expected = plain_loss(other.requires_grad_(True), ROWS)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-4, msg=name)

    ids = [5, 9]
    for _ in range(6):  # what the model itself would say
        ids.append(int(other(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    rows = [*ROWS, TaughtRow("a.jsonl, row 4", ids, [(2, 8)])]
    found = Answers(answers.policy, rows, 12).heldout(Counter())
    right = []
    for row in rows:
        likeliest = other(input_ids=torch.tensor([row.ids])).logits[0].argmax(-1).tolist()
        right += [likeliest[i - 1] == row.ids[i] for start, end in row.spans for i in range(start, end)]
    assert found.loss == pytest.approx(plain_loss(other, rows).item() / len(right), rel=1e-5)
    assert found.token_accuracy == pytest.approx(sum(right) / 23) and 6 <= sum(right) < len(right) == 23


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_merged_model_is_peft_s(kind: str, tmp_path: Path) -> None:
    from peft import PeftModel

    base, targets = save_tiny(tmp_path / "base", kind), targets_of(kind)
    policy = lora_policy(tiny_model(kind), targets)
    settings = supervised_settings(target_modules=targets)
    write_merged(base, policy, {"model": "data/sft/chat"}, tmp_path / "merged")
    config = adapter_config(settings, str(base), policy.layers, AutoModelForCausalLM.from_pretrained(base))
    save_policy(policy, config, tmp_path / "adapter")
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    merged = theirs.merge_and_unload().state_dict()
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    for name, weight in merged.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-6, atol=1e-7)
    assert not torch.equal(merged[(moved := next(n for n in merged if "attn.c_attn.weight" in n or "q_proj" in n))],
                           AutoModelForCausalLM.from_pretrained(base).state_dict()[moved])  # fmt: skip
    same = ("config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja")
    assert all((tmp_path / "merged" / n).read_bytes() == (base / n).read_bytes() for n in same)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_model_in_bf16_stays_one(tuning: str, tmp_path: Path) -> None:
    tiny_model("llama").to(torch.bfloat16).save_pretrained(tmp_path / "base")
    wide = tiny_model("llama")  # as compute.dtype fp32 trains it
    if tuning == "lora":
        policy = lora_policy(wide.to(torch.bfloat16).float(), VALUES["target_modules"])
    else:
        policy = Policy(wide, {})
        with torch.no_grad():
            wide.model.norm.weight.fill_(1.51)
    write_merged(tmp_path / "base", policy, {}, tmp_path / "merged")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "merged"))
    assert {name: t.dtype for name, t in after.items()} == {name: t.dtype for name, t in before.items()}
    if tuning == "full":
        assert (after["model.norm.weight"] == torch.tensor(1.51).bfloat16()).all()
    else:
        name = "model.layers.0.mlp.up_proj"
        expected = before[f"{name}.weight"].float() + policy.layers[name].delta()
        assert torch.equal(after[f"{name}.weight"], expected.bfloat16())


# ---- the stage


def files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of all that the stage writes."""
    found = [*(folder / "data/sft").rglob("*"), *(folder / "metrics/sft").rglob("*")]
    assert not (folder / "data/scratch/chat").exists() or list((folder / "data/scratch/chat").rglob("done"))
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in found if path.is_file()}


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_the_stage_s_numbers_are_those_of_the_model_that_it_writes(tuning: str, tmp_path: Path) -> None:
    made = sft_project(tmp_path, tuning=tuning)
    said = made.run("sft", "chat")
    numbers = json.loads((tmp_path / "metrics/sft/chat.json").read_text())
    tokenizer = tiny_tokenizer()
    for folder, when in ((tmp_path / "data/base", "_before"), (tmp_path / "data/sft/chat", "")):
        model = AutoModelForCausalLM.from_pretrained(folder)
        loss, tokens = 0.0, 0
        for line in (tmp_path / "data/talk.jsonl").read_text().splitlines():
            row = json.loads(line)
            if row["split"] == "heldout":
                text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
                ids = tokenizer(text, add_special_tokens=False)["input_ids"]
                start = ids.index(259) + 1  # <|assistant|>
                loss += plain_loss(model, [TaughtRow("", ids, [(start, len(ids))])]).item()
                tokens += len(ids) - start
        assert numbers[f"eval/loss{when}"] == pytest.approx(loss / tokens, rel=1e-4)
    assert numbers["eval/loss"] < numbers["eval/loss_before"] - 0.1
    assert (numbers["train/rows"], numbers["eval/rows"], numbers["train/steps"]) == (9, 3, 9)
    assert "9 rows, 9 steps" in said
    steps = list(csv.DictReader((tmp_path / "metrics/sft/chat.csv").open()))
    assert [row["step"] for row in steps] == [str(i + 1) for i in range(9)]
    assert sum(float(row["loss"]) for row in steps[-3:]) / 3 == pytest.approx(numbers["train/loss"])
    source = json.loads((tmp_path / "data/sft/chat/source.json").read_text())
    assert (source["model"], source["base"]["model"]) == ("data/sft/chat", "tiny")


class Killed(BaseException):
    """In place of SIGKILL."""


def test_killed_after_each_piece_of_work_it_ends_with_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sft_project(tmp_path / "whole", dropout=0.2, microbatch_tokens=26, epochs=1)
    whole.run("sft", "chat")
    again = sft_project(tmp_path / "again", dropout=0.2, microbatch_tokens=26, epochs=1)
    monkeypatch.setattr(Snapshots, "_pause", lambda self: 0.0)
    work, left, stops = Answers._batch, 0, 0

    def piece(self: Answers, indices: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return work(self, indices)

    monkeypatch.setattr(Answers, "_batch", piece)
    while True:
        left = 3
        torch.manual_seed(stops)
        try:
            again.run("sft", "chat")
            break
        except Killed:
            stops += 1
    assert stops >= 2
    assert files(tmp_path / "again") == files(tmp_path / "whole")
    monkeypatch.undo()
    whole.run("sft", "chat")
    assert files(tmp_path / "again") == files(tmp_path / "whole")


def refused(made: Stages) -> str:
    """Return what the stage says where it fails; it has written nothing then."""
    with chdir(made.folder):
        result = CliRunner().invoke(main, ["sft", "chat"])
    assert result.exit_code == 1 and not (made.folder / "data/sft").exists()
    return str(result.output)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"max_tokens": 11},
            r"talk\.jsonl, row 3: 12 tokens, sft\.chat\.max_tokens is 11 \(5 more .* longest has 14\)",
        ),
        ({"max_tokens": 9, "too_long": "skip"}, r"sft\.chat\.max_tokens: every row to train on is longer"),
        ({"max_tokens": 500}, r"sft\.chat\.max_tokens: 500, the model has 256 positions"),
        ({"target_modules": ["q_prj"]}, r"sft\.chat\.target_modules: the model has no linear layer 'q_prj'"),
        ({"lr": 1e30, "epochs": 9}, r"sft\.chat: in optimizer step \d+ the (loss|gradient) is .*talk\.jsonl, row"),
    ],
)
def test_what_it_cannot_do_is_said_by_row_or_by_the_entry_s_settings(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    assert re.search(message, refused(sft_project(tmp_path, **changes)))


def test_rows_that_are_too_long_may_be_left_out_and_are_counted(tmp_path: Path) -> None:
    project = sft_project(tmp_path, max_tokens=11, too_long="skip")
    with (tmp_path / "data/talk.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "Say <s>", "completion": "<s>" * 9, "split": "train"}) + "\n")
    said = project.run("sft", "chat")
    assert "7 rows longer than max_tokens left out" in said
    assert "answers with special tokens' text: 1, such as '<s>' in data/talk.jsonl, row 13" in said
    numbers = json.loads((tmp_path / "metrics/sft/chat.json").read_text())
    assert (numbers["train/rows"], numbers["eval/rows"], numbers["train/rows_skipped"]) == (5, 1, 7)


def test_the_loop_s_curve_is_of_the_mean_over_the_batch_s_tokens() -> None:
    model = tiny_model("llama")
    answers = Answers(Policy(model.requires_grad_(True), {}), ROWS, 12)
    assert len(answers.microbatches(np.arange(3))) == 2
    expected = plain_loss(tiny_model("llama"), ROWS).item() / 17
    loop = SupervisedLoop(
        answers, dict(model.named_parameters()), supervised_settings(epochs=1), "sft.chat", torch.device("cpu"),
        torch.float32,
    )  # fmt: skip
    loop.run(("k",))
    assert [row["loss"] for row in loop.curve] == [pytest.approx(expected, rel=1e-5)]


def test_dropout_is_on_in_training_alone() -> None:
    policy = lora_policy(tiny_model("llama"), VALUES["target_modules"])
    with dropout_on(policy):
        assert all(layer.dropout.training for layer in policy.all_layers()) and not policy.model.training
    assert not any(layer.dropout.training for layer in policy.all_layers())
