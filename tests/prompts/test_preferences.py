"""Preference data sets: TRL's formats, what is refused and how, the split, the table, the metrics, the stage."""

import hashlib
import json
from contextlib import chdir
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.prompts.preferences import read_preferences
from ppo_pipeline.settings.preference_sections import Preferences
from ppo_pipeline.tables.preferences import PREFERENCES, preference_metrics
from ppo_pipeline.tables.schema import TableError
from stages.__main__ import main

REPOSITORY = Path(__file__).resolve().parents[2]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def jsonl(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(source: Path, heldout: float = 0.0, continue_final: bool = False) -> list[dict[str, Any]]:
    settings = Preferences(source=str(source), heldout_fraction=heldout)
    table, _ = read_preferences(settings, "mine", continue_final)
    rows: list[dict[str, Any]] = PREFERENCES.checked(table, "here").to_pylist()
    return rows


SYSTEM = {"role": "system", "content": "Be brief."}
SKY = [user("What color is the sky?")]
FORMATS = {  # of TRL's dataset_formats.md, each with what it means
    "explicit": ({"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
                 ([user("The sky is")], " blue.", " green.")),
    "implicit": ({"chosen": "The sky is blue.", "rejected": "The sky is green."},
                 ([user("The sky is")], " blue.", " green.")),
    "within a word": ({"chosen": "The sky is blue.", "rejected": "The sky is black."},
                      ([user("The sky is")], " blue.", " black.")),
    "a longer word": ({"chosen": "Say yes", "rejected": "Say yesterday"}, ([user("Say")], " yes", " yesterday")),
    "no words": ({"chosen": "天空是蓝色", "rejected": "天空是绿色"}, ([user("天空是")], "蓝色", "绿色")),
    "a dialogue": ({"chosen": "\n\nHuman: hi\n\nAssistant: Yes.", "rejected": "\n\nHuman: hi\n\nAssistant: No."},
                   ([user("\n\nHuman: hi\n\nAssistant:")], " Yes.", " No.")),
    "conversational": ({"prompt": SKY, "chosen": [said("It is blue.")], "rejected": [said("It is green.")]},
                       (SKY, "It is blue.", "It is green.")),
    "conversational, implicit": (
        {"chosen": [SYSTEM, *SKY, said("blue")], "rejected": [SYSTEM, *SKY, said("green")]},
        ([SYSTEM, *SKY], "blue", "green"),
    ),
    "several turns": ({"chosen": [*SKY, said("?"), user("Now?"), said("blue")],
                       "rejected": [*SKY, said("?"), user("Now?"), said("green")]},
                      ([*SKY, said("?"), user("Now?")], "blue", "green")),
    "prompt as text beside messages with it": (
        {"prompt": SKY[0]["content"], "chosen": [*SKY, said("blue")], "rejected": [*SKY, said("green")]},
        (SKY, "blue", "green"),
    ),
    "messages and texts": ({"messages": SKY, "chosen": "blue", "rejected": "green"}, (SKY, "blue", "green")),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_of_trl_is_the_pair_that_it_means(tmp_path: Path, name: str) -> None:
    row, (messages, chosen, rejected) = FORMATS[name]
    (found,) = read(jsonl(tmp_path / "p.jsonl", row))
    assert (found["messages"], found["chosen"], found["rejected"]) == (messages, chosen, rejected)
    assert found["prompt_id"] == hashlib.sha256(json.dumps(messages, ensure_ascii=False).encode()).hexdigest()[:12]


def test_the_same_pairs_from_each_kind_of_file_and_from_a_folder(tmp_path: Path) -> None:
    rows = [
        {
            "pair_id": "a",
            "prompt": "中文，逗号",
            "chosen": "x",
            "rejected": "two\nlines",
            "margin": "0.5",
            "more": "one",
        },
        {"pair_id": "b", "prompt": "q", "chosen": "y", "rejected": "z", "margin": "", "more": "two"},
    ]
    text = "pair_id{0}prompt{0}chosen{0}rejected{0}margin{0}more\n"
    text += 'a{0}中文，逗号{0}x{0}"two\nlines"{0}0.5{0}one\nb{0}q{0}y{0}z{0}{0}two\n'
    jsonl(tmp_path / "p.jsonl", *rows)
    (tmp_path / "p.json").write_text(json.dumps(rows))
    (tmp_path / "p.csv").write_text(text.format(","))
    (tmp_path / "p.tsv").write_text(text.format("\t"))
    numbers = [{**row, "margin": float(row["margin"]) if row["margin"] else None} for row in rows]
    pq.write_table(pa.Table.from_pylist(numbers), tmp_path / "p.parquet")
    first = read(tmp_path / "p.jsonl")
    assert [(row["pair_id"], row["margin"], row["more"]) for row in first] == [("a", 0.5, "one"), ("b", None, "two")]
    for name in ("p.json", "p.csv", "p.tsv", "p.parquet"):
        assert read(tmp_path / name) == first, name
    again = read(tmp_path)  # five times the same pairs: each has a name of its own
    assert len(again) == 10 and {row["pair_id"] for row in again} >= {"a", "a-2", "a-5", "b-5"}


BAD = {
    "equal answers": ({"prompt": "p", "chosen": "a", "rejected": "a"}, "equal answers; remove the pair"),
    "equal in other forms": ({"prompt": "p", "chosen": "a", "rejected": [said("a")]}, "equal answers"),
    "blank": ({"prompt": "p", "chosen": " \n", "rejected": "a"}, "empty answer: `chosen`"),
    "blank message": ({"prompt": "p", "chosen": [said("a")], "rejected": [said("")]}, "`rejected`: empty answer"),
    "none": ({"prompt": "p", "chosen": "a"}, "empty answer: `rejected` has no value"),
    "misspelt": ({"prompt": "p", "chosen": "a", "rejectd": "b"}, "Did you mean 'rejected'"),
    "one goes on": ({"chosen": "The sky is blue", "rejected": "The sky is blue today"}, "empty answer: `chosen`"),
    "nothing alike": ({"chosen": "blue", "rejected": "green"}, "nothing that `chosen` and `rejected` begin with alike"),
    "no message alike": ({"chosen": [user("a"), said("x")], "rejected": [user("b"), said("y")]}, "begin with alike"),
    "other turns": ({"chosen": [user("a"), said("x"), user("b"), said("y")], "rejected": [user("a"), said("z")]},
                    "`chosen` has other messages before its last than the prompt"),
    "another prompt": ({"prompt": "p", "chosen": [user("q"), said("x")], "rejected": "y"}, "`chosen` has other mess"),
    "the user's": ({"prompt": "p", "chosen": [user("x")], "rejected": "y"}, "last message of `chosen` must be the ass"),
    "a tool": ({"prompt": "p", "chosen": [{**said("x"), "tool_calls": [1]}], "rejected": "y"}, "see its 'tool_calls'"),
    "a number": ({"prompt": "p", "chosen": 5, "rejected": "y"}, "`chosen` must be a text or a list of messages"),
    "mixed": ({"chosen": "a b", "rejected": [said("y")]}, "must both be texts, or both lists"),
    "margin": ({"prompt": "p", "chosen": "a", "rejected": "b", "margin": -1}, "`margin` must be a number of 0 or more"),
    "margin as text": ({"prompt": "p", "chosen": "a", "rejected": "b", "margin": "much"}, "`margin` must be a number"),
    "split": ({"prompt": "p", "chosen": "a", "rejected": "b", "split": "test"}, "split 'test' is neither"),
    "undecided": ({"prompt": "p", "responses": ["a", "b"]}, "not decided; `ppo-pipeline judge`"),
    "prompt": ({"prompt": "", "chosen": "a b", "rejected": "c"}, "begin with alike; write the prompt out"),
    "tools": ({"tools": "s", "prompt": "p", "chosen": "a", "rejected": "b"}, "would not see the column 'tools'"),
    "half a character": ({"prompt": "p", "chosen": "\ud83d", "rejected": "b"}, "half of a character"),
    "answer begun": ({"prompt": [user("p"), said("It")], "chosen": " is", "rejected": " was"}, "continue_final"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_pair_is_named_by_file_and_row(tmp_path: Path, name: str) -> None:
    row, message = BAD[name]
    path = tmp_path / "p.jsonl"
    good = {"prompt": "good", "chosen": "a", "rejected": "b"}
    path.write_text("".join(json.dumps(each) + "\n" for each in (good, row)))
    with pytest.raises(PipelineError) as caught:
        read(path)
    assert caught.value.message.startswith(f"{path}, row 2: ") and message in caught.value.message


def test_all_bad_rows_are_counted(tmp_path: Path) -> None:
    bad = [{"prompt": f"p{i}", "chosen": "a", "rejected": "a"} for i in range(13)]
    with pytest.raises(PipelineError) as caught:
        read(jsonl(tmp_path / "p.jsonl", {"prompt": "p", "chosen": "a", "rejected": "b"}, *bad))
    lines = caught.value.message.splitlines()
    assert [line.split(", ")[1][:6] for line in lines[:10]] == [f"row {n}" + ":" * (n < 10) for n in range(2, 12)]
    assert lines[10:] == ["3 more such rows."]


def test_a_prompt_in_both_splits_names_both_rows(tmp_path: Path) -> None:
    pair = {"prompt": "p", "chosen": "a", "rejected": "b"}
    jsonl(tmp_path / "s/a.jsonl", {**pair, "split": "train"}, {**pair, "prompt": "q", "split": "train"})
    jsonl(tmp_path / "s/b.jsonl", {**pair, "chosen": "c", "prompt": [user("p")], "split": "heldout"})
    both = r"b\.jsonl, row 1: split 'heldout', and 'train' for the same prompt in .*a\.jsonl, row 1\."
    with pytest.raises(PipelineError, match=both):
        read(tmp_path / "s")
    with pytest.raises(PipelineError, match="no pair has the split 'train'"):
        read(jsonl(tmp_path / "h.jsonl", {**pair, "split": "heldout"}))
    with pytest.raises(PipelineError, match=r"params\.yaml: preferences\.mine\.source: no file or folder"):
        read(tmp_path / "none.jsonl")


def test_the_split_is_by_prompt_and_not_that_of_a_prompt_set(tmp_path: Path) -> None:
    """Rollouts are of prompts that the prompt set's split did not hold out: of these, too, some must be held out."""
    pairs = [{"prompt": f"p{i}", "chosen": f"c{j}", "rejected": "r"} for i in range(400) for j in range(2)]
    rows = read(jsonl(tmp_path / "p.jsonl", *pairs), heldout=0.25)
    assert all(a["split"] == b["split"] for a, b in zip(rows[::2], rows[1::2], strict=True))
    drawn = [row for row in rows[::2] if int(row["prompt_id"][:8], 16) / 2**32 >= 0.25]
    assert 0.18 < sum(row["split"] == "heldout" for row in drawn) / len(drawn) < 0.32
    assert read(jsonl(tmp_path / "q.jsonl", *pairs[::-1]), heldout=0.25)[::-1] == rows


def test_further_columns_stay_and_an_answer_may_be_begun(tmp_path: Path) -> None:
    row = {
        "prompt": [user("p"), said("It")],
        "chosen": " is",
        "rejected": " was",
        "prompt_id": 7,
        "scores": {"a": [2, 1]},
    }
    (found,) = read(jsonl(tmp_path / "p.jsonl", row), continue_final=True)
    assert (found["source_prompt_id"], found["scores"], found["messages"][1]) == ("7", {"a": [2, 1]}, said("It"))


def test_metrics_by_hand(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "chosen": "four", "rejected": "two", "margin": 1},
        {"prompt": "p", "chosen": "four", "rejected": "two"},
        {"prompt": "p", "chosen": "two", "rejected": "four"},
        {"prompt": "q", "chosen": "same", "rejected": "long", "split": "heldout"},
    ]
    source = jsonl(tmp_path / "p.jsonl", *rows, {"prompt": "p", "responses": ["a", "b"], "tie": True})
    table, ties = read_preferences(Preferences(source=str(source), heldout_fraction=0.0), "mine", False)
    assert ties == 1
    assert preference_metrics(PREFERENCES.checked(table, "here")) == {
        "preferences/pairs": 4, "preferences/train": 3, "preferences/heldout": 1, "preferences/prompts": 2,
        "preferences/with_margin": 1, "preferences/repeated": 1, "preferences/contradicted": 3,
        "preferences/chosen_characters": 15 / 4, "preferences/rejected_characters": 14 / 4,
        "preferences/chosen_longer": 0.5, "preferences/rejected_longer": 0.25,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("split", "heldout", "both splits"), ("rejected", "a", "equal answers"), ("margin", -1.0, "below 0"),
     ("chosen", None, "empty"), ("split", "test", "neither 'train' nor 'heldout'")],
)  # fmt: skip
def test_a_table_that_is_none_is_refused(column: str, value: Any, message: str) -> None:
    rows: list[dict[str, Any]] = [
        {"pair_id": str(i), "prompt_id": "p", "messages": [user("p")], "chosen": "a", "rejected": f"b{i}",
         "margin": None if i else 1.0, "split": "train"} for i in range(2)
    ]  # fmt: skip
    PREFERENCES.checked(pa.Table.from_pylist(rows), "here")
    rows[1][column] = value
    with pytest.raises(TableError, match=message):
        PREFERENCES.checked(pa.Table.from_pylist(rows), "here")


def test_the_stage_writes_table_and_metrics_the_same_each_time(tmp_path: Path) -> None:
    yaml = YAML()
    params = yaml.load(REPOSITORY / "params.yaml")
    params["preferences"] = {"mine": {"source": "data/pairs/mine.jsonl", "heldout_fraction": 0.0}}
    yaml.dump(params, tmp_path / "params.yaml")
    jsonl(
        tmp_path / "data/pairs/mine.jsonl", FORMATS["explicit"][0], {"prompt": "p", "responses": ["a", "b"], "tie": 1}
    )
    entry = YAML(typ="safe").load(REPOSITORY / "dvc.yaml")["stages"]["preferences"]["do"]
    outs = ["data/preferences/mine.parquet", "metrics/preferences/mine.json"]
    names = [*entry["outs"], *(name for out in entry["metrics"] for name in out)]
    assert [name.replace("${key}", "mine") for name in names] == outs
    found = []
    for _ in range(2):
        with chdir(tmp_path):
            result = CliRunner().invoke(main, entry["cmd"].replace("${key}", "mine").split()[3:])
        assert result.exit_code == 0, result.output
        assert "1 pairs to train on, 0 held out, 1 ties left out" in result.output
        found.append([(tmp_path / name).read_bytes() for name in outs])
    assert found[0] == found[1]
    assert json.loads(found[0][1])["preferences/ties"] == 1


def test_the_page_s_formats_are_the_pairs_that_it_says(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs/preferences.md").read_text(encoding="utf-8")
    (tmp_path / "p.jsonl").write_text(page.split("```json\n")[1].split("```")[0], encoding="utf-8")
    *same, written, implicit = [{**row, "pair_id": "", "margin": None} for row in read(tmp_path / "p.jsonl")]
    assert len(same) == 4 and all(row == same[0] for row in same)
    assert {**written, "chosen": " Yes", "rejected": " Yesterday"} == implicit
