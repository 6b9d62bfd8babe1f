"""`--where`: the rows that a plain Python condition finds, and nothing but these rows to be read."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ppo_pipeline.cli.where import matching
from ppo_pipeline.errors import PipelineError

ROWS = [
    {"id": "a", "score": -1.5, "finish_reason": "length", "tokens": 48, "text": "It's 50% off", "reward.kl": 0.5},
    {"id": "b", "score": 0.5, "finish_reason": "stop", "tokens": 3, "text": "", "reward.kl": -0.25},
    {"id": "c", "score": -0.25, "finish_reason": "stop", "tokens": 7, "text": "赫尔辛基", "reward.kl": 2.0},
    {"id": "d", "score": 0.0, "finish_reason": "length", "tokens": 48, "text": "\u202eשלום", "reward.kl": 0.0},
    {"id": "e", "score": None, "finish_reason": "stop", "tokens": 1, "text": 'said "or"', "reward.kl": 1.0},
]
MORE = {
    "messages": [[{"role": "user", "content": f"what is {row['id']}?"}] for row in ROWS],
    "ids": [[1, 2, 3], [], [4], [5, 6], [7]],
    "good": [True, False, True, False, True],
    "when": [datetime.datetime(2024, 1, day) for day in range(1, 6)],
    "big": pa.array([2**64 - 1, 1, 2, 3, 4], pa.uint64()),
    "Or der": [1, 2, 3, 4, 5],
    'q"x': [1, 1, 0, 0, 0],
}


def table() -> pa.Table:
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    return pa.table({**columns, **MORE})


def found(condition: str) -> list[str]:
    return matching(table(), condition).column("id").to_pylist()


Row = dict[str, Any]
CONDITIONS: dict[str, Callable[[Row], bool]] = {
    "score < 0": lambda r: r["score"] is not None and r["score"] < 0,
    "score < 0 and finish_reason = 'length'": lambda r: r["id"] == "a",
    "SCORE >= 0 or Tokens != 48": lambda r: (r["score"] or -1) >= 0 or r["score"] == 0 or r["tokens"] != 48,
    "not (score < 0) and tokens between 1 and 5": lambda r: r["id"] == "b",
    "score is null": lambda r: r["score"] is None,
    "score is not null": lambda r: r["score"] is not None,
    "finish_reason in ('length', 'x')": lambda r: r["finish_reason"] == "length",
    "text = 'It''s 50% off'": lambda r: r["id"] == "a",
    "text like '%FF'": lambda r: r["text"].lower().endswith("ff"),
    "text like '%50\\%%' escape '\\'": lambda r: "50%" in r["text"],
    "contains(text, '尔')": lambda r: "尔" in r["text"],
    "text = '\u202eשלום'": lambda r: r["id"] == "d",
    "text regexp '^$|^It'": lambda r: r["text"] == "" or r["text"].startswith("It"),
    "length(text) = 4": lambda r: len(r["text"]) == 4,
    "reward.kl > 0.25": lambda r: r["reward.kl"] > 0.25,
    '"reward.kl" > 0.25 -- a comment': lambda r: r["reward.kl"] > 0.25,
    '"Or der" > 3': lambda r: r["id"] in "de",
    '"q""x" = 1': lambda r: r["id"] in "ab",
    "text = 'said \"or\"'": lambda r: r["id"] == "e",
    "text = 'reward.kl' or tokens = 7": lambda r: r["tokens"] == 7,
    "contains(messages, 'what is c?')": lambda r: r["id"] == "c",
    "json_array_length(ids) = 0": lambda r: r["id"] == "b",
    "good": lambda r: r["id"] in "ace",
    "\"when\" > '2024-01-03'": lambda r: r["id"] in "cde",
    "big = '18446744073709551615'": lambda r: r["id"] == "a",
    "score = (select min(score) from rows)": lambda r: r["id"] == "a",
    "tokens > 1.5e1": lambda r: r["tokens"] > 15,
    "1 = 1": lambda r: True,
    "0": lambda r: False,
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_condition_finds_what_python_finds(condition: str) -> None:
    assert found(condition) == [row["id"] for row in ROWS if CONDITIONS[condition](row)]


def test_all_columns_of_the_rows_found_are_as_they_were() -> None:
    kept = matching(table(), "tokens = 48")
    assert kept == table().take([0, 3])
    assert matching(table().slice(0, 0), "tokens = 48").column_names == table().column_names


def test_of_names_that_differ_in_case_alone_the_first_counts() -> None:
    rows = pa.table({"Score": [1.0, -1.0], "score": [-1.0, 1.0]})
    assert matching(rows, "score > 0").to_pylist() == [{"Score": 1.0, "score": -1.0}]
    assert matching(rows.select(["score", "Score"]), "score > 0").to_pylist() == [{"score": 1.0, "Score": -1.0}]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("scor < 0", "no column 'scor'. Did you mean 'score'? There are: id, score,"),
        ("reward.k > 0", "no column 'reward.k'. Did you mean 'reward.kl'?"),
        ('finish_reason = "length"', "no column 'length'. Text stands in single quotes."),
        ("score <", "syntax error"),
        ("", "syntax error"),
        ("score < 0 finish_reason", "syntax error"),
        ("(score < 0", "incomplete input"),
        ("text = 'it", "unrecognized token"),
        ("lenth(text) = 4", "no such function: lenth"),
        ("text regexp '('", "not a regular expression"),
        ("score = \udcff", "surrogates"),
        ("score = \x00", ""),
        ("sum(score) > 0", "misuse of aggregate"),
        ("0) union select 1 --", "syntax error"),
    ],
)
def test_a_wrong_condition_is_refused_with_its_cure(condition: str, message: str) -> None:
    with pytest.raises(PipelineError) as caught:
        found(condition)
    assert message in caught.value.message
    assert "--where" in caught.value.message


@pytest.mark.parametrize(
    "condition",
    [
        "1); drop table rows; --",
        "1) ; attach database 'made.db' as x; --",
        "exists (select * from sqlite_master)",
        "exists (select * from pragma_database_list)",
        "load_extension('libc.so.6') is null",
        "(with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n) > 0",
        "writefile('made.db', 'x') > 0",
        "readfile('/etc/passwd') is not null",
    ],
)
def test_a_condition_reads_the_rows_and_nothing_else(
    condition: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError):
        found(condition)
    assert not list(tmp_path.iterdir())
