"""Preference data sets of any content: they are read and written as a table, or refused with PipelineError."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fuzzing import EDITS, JSON, changes_of, damaged, declared, examples
from hypothesis import given
from hypothesis import strategies as st

from ppo_pipeline.prompts.preferences import read_preferences
from ppo_pipeline.settings.preference_sections import Preferences
from ppo_pipeline.tables.preferences import PREFERENCES, preference_metrics

TALK = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
ROWS = [
    {"pair_id": 1, "prompt": "中文", "chosen": "x", "rejected": "y z", "margin": 0.5, "split": "train", "n": [1]},
    {"chosen": TALK, "rejected": [*TALK[:1], {"role": "assistant", "content": "b"}], "prompt_id": "p"},
    {"chosen": "The sky is blue", "rejected": "The sky is black", "scores": {"k": [1.0, 2.0]}},
    {"messages": TALK[:1], "responses": ["x", "y"], "tie": True},
]
CSV = 'prompt,chosen,rejected,margin,split\na,"中文，逗号",007,1,train\nb,"two\nlines",x,,\n'.encode()
TEXTS = st.sampled_from(["", " ", "a", "a b", "a c", "\ud83d", "ab"])
NAMES = ["prompt", "messages", "chosen", "rejected", "margin", "split", "tie", "responses", "pair_id", "prompt_id", "x"]


def read(path: Path, content: bytes) -> None:
    """Read a source with this content, write what it gives and count it, as the stage does."""
    path.write_bytes(content)
    settings = Preferences(source=str(path), heldout_fraction=0.0)

    def through() -> pa.Table:
        table, _ = read_preferences(settings, "mine", True)
        PREFERENCES.write(table, path.with_name("pairs.out"))
        preference_metrics(table)
        return PREFERENCES.read(path.with_name("pairs.out"))

    found = declared(through, str(path))
    for row in found.to_pylist() if found is not None else ():
        assert row["chosen"].strip() and row["rejected"].strip() and row["chosen"] != row["rejected"]
        assert row["messages"]


def as_jsonl(rows: list[Any]) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode("utf-8")


@examples(60)
@given(rows=changes_of(ROWS) | st.lists(st.dictionaries(st.sampled_from(NAMES), TEXTS | JSON), max_size=2))
def test_rows_of_any_content(rows: list[Any], tmp_path: Path) -> None:
    read(tmp_path / "p.jsonl", as_jsonl(rows))


@pytest.mark.parametrize(("name", "content"), [("p.jsonl", as_jsonl(ROWS)), ("p.csv", CSV)])
@examples(40)
@given(edits=EDITS)
def test_damaged_files(name: str, content: bytes, edits: Any, tmp_path: Path) -> None:
    read(tmp_path / name, damaged(content, edits))


def test_the_rows_themselves_are_read(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_bytes(as_jsonl(ROWS))
    table, ties = read_preferences(Preferences(source=str(tmp_path), heldout_fraction=0.0), "mine", True)
    assert (table.num_rows, ties) == (3, 1)
