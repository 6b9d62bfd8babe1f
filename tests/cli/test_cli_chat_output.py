"""`ppo-pipeline chat`: what it prints in a pipe, on a terminal and as JSON, and what it refuses."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from test_cli_chat import ASK, TALKS, TRAIN, edit, models, prompts, rows  # noqa: F401
from test_cli_models import BASE, project, run  # noqa: F401

from ppo_pipeline.models.prepacked import PrepackedLinear
from ppo_pipeline.tables.prompts import PROMPTS


def test_json_of_a_prompt_has_neither_id_nor_expected_and_no_control_character() -> None:
    result = run(*ASK, "--prompt", "[b]\x9b31m", "--json")
    assert "\x9b" not in result.stdout and not result.stderr
    [row] = rows(*ASK, "--prompt", "[b]\x9b31m", "--json")
    assert list(row) == ["prompt_id", "prompt", "base", "trained", "round"]
    assert (row["prompt_id"], row["prompt"], row["round"]) == (None, "[b]\x9b31m", "r001")


def test_a_split_has_a_limit_and_says_so() -> None:
    many = [{"prompt_id": str(n), "messages": TALKS[n % 4], "split": "train"} for n in range(12)]
    PROMPTS.write(pa.Table.from_pylist(many), Path("data/prompts.parquet"))
    for options, count in (((), 10), (("--limit", "3"), 3), (("--limit", "99"), 12)):
        for output in ((), ("--json",)):
            result = run(*ASK, "--split", "train", *options, *output)
            assert len(result.stdout.splitlines()) == count + (not output)
            assert result.stderr == f"{count} of 12 train prompts; trained: r001\n"
    assert "expected" not in rows(*TRAIN)[0]


def test_in_a_pipe_a_split_has_a_line_per_prompt() -> None:
    lines = run(*ASK, "--split", "train").stdout.splitlines()
    assert lines[0] == "prompt\texpected\tbase\ttrained"
    assert [line.split("\t")[:2] for line in lines[3:]] == [
        ["你好 [red]x[/red]\\ttab", "好"],
        [TALKS[3][0]["content"], ""],
    ]
    assert {line.count("\t") for line in lines} == {3}


def test_on_a_terminal_a_split_is_a_drawn_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("ppo_pipeline.cli.chat.answers", lambda *_: [" [b]x\x1b[2J", "y", "z", "w"])
    result = run(*ASK, "--split", "train")
    assert "\x1b[2J" not in result.stdout and "4 of 4 train prompts; trained: r001" in result.stdout
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines() if "│" in line]
    assert cells[0] == ["say a", "a", "[b]x\\x1b[2J", "[b]x\\x1b[2J"]
    assert cells[1] == ["and 20 + 30?", "50", "y", "y"]


def test_expected_answers_of_any_type_are_shown() -> None:
    columns = {"prompt_id": ["p", "q"], "messages": TALKS[:2], "split": ["train"] * 2, "expected": [["a", "b"], None]}
    PROMPTS.write(pa.table(columns), Path("data/prompts.parquet"))
    assert [line.split("\t")[1] for line in run(*ASK, "--split", "train").stdout.splitlines()[1:]] == ['["a", "b"]', ""]
    assert [row["expected"] for row in rows(*TRAIN)] == [["a", "b"], None]


def test_a_prompt_s_answers_stand_beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    base, policy = models()

    def whose(engine: Any, *_: Any) -> list[str]:
        same = [m for m in (base, policy) if torch.equal(weight(engine.decoder.model), weight(m))]
        return ["says the base" if same == [base] else "says the policy" if same == [policy] else "?"]

    def weight(model: Any) -> torch.Tensor:
        layer = model.model.layers[1].mlp.up_proj
        found: torch.Tensor = layer.packed.to_dense() if isinstance(layer, PrepackedLinear) else layer.weight
        return found

    monkeypatch.setattr("ppo_pipeline.cli.chat.answers", whose)
    piped = run(*ASK, "--prompt", "x")
    assert piped.stdout.splitlines() == ["prompt\tbase\ttrained", "x\tsays the base\tsays the policy"]
    assert piped.stderr == "trained: r001\n"
    monkeypatch.setattr("ppo_pipeline.cli.chat.on_terminal", lambda: True)
    for arguments, stdin in (((*ASK, "--prompt", "x"), None), (ASK, "x\n")):
        lines = run(*arguments, stdin=stdin).output.splitlines()
        head, row = (next(line for line in lines if line.startswith(edge)) for edge in ("┃", "│"))
        assert [text.strip() for text in head.strip("┃").split("┃")] == ["base", "r001"]
        assert [text.strip() for text in row.strip("│").split("│")] == ["says the base", "says the policy"]


def test_it_goes_on_after_a_prompt_that_is_too_long() -> None:
    output = run(*ASK, stdin=f"{'x' * 300}\nsecond\n").output
    assert "the model has 256" in output
    assert "second" in output.split("the model has 256")[1]


def test_prompts_are_shown_literally() -> None:
    output = run(*ASK, "--prompt", "[red]x[/red]\x1b[2J").output
    assert "[red]x[/red]\\x1b[2J" in output
    assert "\x1b[2J" not in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--prompt x --temperature nan", "is not a finite number"),
        ("--prompt x --temperature inf", "is not a finite number"),
        ("--prompt x --temperature -1", "is not in the range"),
        ("--prompt x --temperature 1e-40", "0, which answers greedily, or at least 1e-06"),
        ("--prompt x --temperature 1 --top-p 0", "is not in the range"),
        ("--prompt x --temperature 1 --top-p 1.1", "is not in the range"),
        ("--prompt x --temperature 1 --top-p nan", "is not a finite number"),
        ("--prompt x --temperature 1 --top-k 0", "is not in the range"),
        ("--prompt x --top-p 0.9", "temperature 0 (the default) takes the likeliest token"),
        ("--temperature 0 --top-k 3", "temperature 0 (the default) takes the likeliest token"),
        ("--prompt x --split train", "do not go together"),
        ("--system x --split train", "--system is not for --split"),
        ("--split test", "'test' is not one of 'train', 'heldout'"),
        ("--split train --limit 0", "is not in the range"),
        ("--prompt x --limit 3", "--limit is of the prompts of --split"),
        ("--json", "give --split or --prompt too"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: str, message: str) -> None:
    result = run(*ASK, *options.split(), code=2)
    assert message in " ".join(result.stderr.split()) and not result.stdout


def test_a_set_that_is_not_here_is_named_with_what_makes_it() -> None:
    Path("data/prompts.parquet").unlink()
    assert "data/prompts.parquet: not here; `dvc repro prompts` makes it" in run(*TRAIN, code=1).stderr


def test_a_split_without_prompts_is_named() -> None:
    columns = {"prompt_id": ["p"], "messages": TALKS[:1], "split": ["train"]}
    PROMPTS.write(pa.table(columns), Path("data/prompts.parquet"))
    assert "no prompt has the split 'heldout'" in run(*ASK, "--split", "heldout", code=1).stderr


def test_a_prompt_too_long_for_the_round_is_refused_before_any_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    edit("r001: {parent: r000", "r001: {parent: r000, rollout: {max_prompt_tokens: 40}")
    monkeypatch.setattr("ppo_pipeline.cli.chat.openers", None)
    assert "prompt 'p' has 66 tokens, rollout.max_prompt_tokens is 40" in run(*TRAIN, code=1).stderr


def test_a_base_that_is_not_here_is_named_with_what_makes_it() -> None:
    shutil.rmtree(BASE)
    assert "data/base: no model here; `dvc repro base` makes it" in run(*TRAIN, code=1).stderr


def test_a_prompt_without_tokens_is_refused() -> None:
    edit("chat_template: auto", "chat_template: plain")
    assert "the prompt '' has no token" in run(*ASK, "--prompt", "x", "--prompt", "", code=1).stderr
