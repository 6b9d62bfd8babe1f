"""The prompts' own columns: types in CSV, a system prompt per row, what the stage says of them."""

from pathlib import Path
from typing import Any

import pytest
from prompts.test_prompt_sources import jsonl, prompts

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.prompts.column_kinds import columns_told
from ppo_pipeline.prompts.column_values import numbers_of_text, text_of
from ppo_pipeline.prompts.sources import read_prompts
from stages import prompts as stage


def column(path: Path, name: str) -> list[Any]:
    return read_prompts(prompts(path, heldout_fraction=0.0)).column(name).to_pylist()


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["5", "-3", "0"], [5, -3, 0]),
        (["0.25", "2", "-0.5"], [0.25, 2, -0.5]),
        (["1", "", "2"], [1, None, 2]),
        (["9007199254740992"], [2**53]),
        *[
            (["1", other], ["1", other])
            for other in (
                "x",
                "007",
                "+5",
                "5.0",
                "1e3",
                "1,000",
                "-0",
                " 2",
                "NaN",
                "0.00001",
                "9007199254740993",
                "²",
            )
        ],
        (["true", "false"], ["true", "false"]),
        (["", ""], ["", ""]),
    ],
)
def test_a_csv_column_is_of_numbers_where_no_digit_is_lost(cells: list[str], values: list[Any]) -> None:
    found = numbers_of_text(cells)
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]
    assert [text_of(value) for value in found if value not in ("", None)] == [cell for cell in cells if cell]


def test_what_is_text_by_its_name_stays_text_in_csv(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt_id,prompt,level,answer\n1,2,3,4.0\n5,6,7.5,8\n")
    table = read_prompts(prompts(tmp_path / "p.csv", heldout_fraction=0.0))
    assert table.to_pylist() == [
        {
            "prompt_id": "1",
            "messages": [{"role": "user", "content": "2"}],
            "split": "train",
            "level": 3.0,
            "answer": "4.0",
        },
        {
            "prompt_id": "5",
            "messages": [{"role": "user", "content": "6"}],
            "split": "train",
            "level": 7.5,
            "answer": "8",
        },
    ]


def test_files_of_a_folder_agree_on_a_column_s_type(tmp_path: Path) -> None:
    """Numbers in one file and texts in the other: texts in both, as they were written."""
    (tmp_path / "a.csv").write_text("prompt,answer\na,5\nb,0.5\n")
    (tmp_path / "b.csv").write_text("prompt,answer\nc,x\nd,5.0\n")
    assert column(tmp_path, "answer") == ["5", "0.5", "x", "5.0"]


def test_a_row_s_system_prompt_comes_before_that_of_the_settings(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "p.jsonl", {"prompt": "q", "system": "be kind"}, {"prompt": "q", "system": ""}, {"prompt": "r"}
    )
    table = read_prompts(prompts(path, system="be short", heldout_fraction=0.0))
    found = [[m["content"] for m in messages] for messages in table.column("messages").to_pylist()]
    assert found == [["be kind", "q"], ["be short", "q"], ["be short", "r"]]
    assert "system" not in table.column_names
    written = jsonl(
        tmp_path / "q.jsonl", {"messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "q"}]}
    )
    assert column(written, "prompt_id") == column(path, "prompt_id")[:1], "as if it stood in the messages"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "q"}], "system": "b"},
         "both `system` and a system message in `messages`; keep one"),
        ({"prompt": "q", "system": 5}, "empty system prompt: a message's content must be text, found 5"),
        ({"prompt": "q", "system": "  "}, "empty system prompt"),
    ],
)  # fmt: skip
def test_a_system_prompt_that_is_none_or_one_too_many_is_refused(tmp_path: Path, row: Any, words: str) -> None:
    with pytest.raises(PipelineError, match=f"row 1: {words}"):
        column(jsonl(tmp_path / "p.jsonl", row), "messages")


def test_what_columns_hold_is_said_in_words() -> None:
    columns = {
        "a": [None, "x"],
        "b": [1],
        "c": [0.5],
        "d": [True],
        "e": [["x"], []],
        "f": [{"k": 1}],
        "g": [None],
        "h": [[]],
    }
    assert columns_told(columns) == (
        "a (text), b (whole numbers), c (numbers), d (true or false), e (lists of text), f (records), g (empty), "
        "h (lists of empty)"
    )
    assert columns_told({}) == "none"


def test_the_stage_says_which_columns_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    text = (Path(__file__).resolve().parents[2] / "params.yaml").read_text()
    jsonl(tmp_path / "p.jsonl", {"prompt": "q", "answer": 4, "topic": "sums", "system": "s"})
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(text.replace("source: data/prompts/skills.jsonl", "source: p.jsonl"))
    (tmp_path / "data").mkdir()
    stage.run()
    assert "held out; columns: answer (whole numbers), topic (text)" in capsys.readouterr().out
    for heldout, said in (
        (5, "5 held out (a share of right answers is uncertain by 22 points); "),
        (100, "100 held out; "),
    ):
        splits = ["train"] + ["heldout"] * heldout
        jsonl(tmp_path / "p.jsonl", *({"prompt": f"q{n}", "split": split} for n, split in enumerate(splits)))
        stage.run()
        assert f"prompts: 1 to train on, {said}columns: none" in capsys.readouterr().out
