"""Prompt sets of any content: they are read and written as a table, or refused with PipelineError."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzzing import EDITS, JSON, changes_of, damaged, declared, examples
from hypothesis import given
from hypothesis import strategies as st

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.prompts.sources import read_prompts
from ppo_pipeline.settings.sections import Prompts
from ppo_pipeline.tables.prompts import PROMPTS

ROWS = [
    {"prompt_id": "a", "prompt": "中文，逗号", "expected": "007", "split": "train", "n": 1.5},
    {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], "expected": None, "n": 2},
    {"prompt": "two\nlines", "tags": ["x", "y"], "more": {"k": 1}},
]
CSV = 'prompt_id,prompt,expected,split\na,"中文，逗号",007,train\nb,"two\nlines",x,heldout\n'.encode()
NAMES = st.sampled_from(["prompt", "messages", "prompt_id", "split", "expected", "", "x"])


def as_jsonl(rows: list[Any]) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode("utf-8")


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


PARQUET = parquet(pa.Table.from_pylist(ROWS))


def settings_of(source: Path) -> Prompts:
    return Prompts(
        source=str(source), system=None, heldout_fraction=0.0, chat_template="auto", continue_final_message=True,
        date=None, special_tokens="text",
    )  # fmt: skip


def read(path: Path, content: bytes) -> None:
    """Read a source with this content, and write what it gives, as the stage does."""
    path.write_bytes(content)
    settings = settings_of(path)

    def through() -> pa.Table:
        table = read_prompts(settings)
        PROMPTS.write(table, path.with_name("prompts.out"))
        return PROMPTS.read(path.with_name("prompts.out"))

    declared(through, str(path))


@pytest.mark.parametrize(("kind", "good"), [("jsonl", as_jsonl(ROWS)), ("csv", CSV), ("parquet", PARQUET)])
@examples(60)
@given(edits=EDITS)
def test_damaged_files(kind: str, good: bytes, edits, tmp_path: Path) -> None:
    read(tmp_path / f"p.{kind}", damaged(good, edits))


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@examples(30)
@given(content=st.binary(max_size=60))
def test_any_bytes(kind: str, content: bytes, tmp_path: Path) -> None:
    read(tmp_path / f"p.{kind}", content)


@examples(80)
@given(changes_of(ROWS))
def test_jsonl_with_any_value_anywhere(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    read(tmp_path_factory.getbasetemp() / "p.jsonl", as_jsonl(rows))


@examples(60)
@given(st.lists(st.dictionaries(NAMES, JSON, max_size=4), max_size=3), st.booleans())
def test_jsonl_rows_of_any_values(tmp_path_factory: pytest.TempPathFactory, rows: list[Any], ascii_only: bool) -> None:
    text = "".join(f"{json.dumps(row, ensure_ascii=ascii_only)}\n" for row in rows)
    read(tmp_path_factory.getbasetemp() / "p.jsonl", text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"prompt": "a", "n": ' + "9" * 5000 + "}",
        '{"prompt": "a", "x": ' + "[" * 500 + "]" * 500 + "}",
        '{"prompt": "a", "x": {}}',
        '{"prompt": "a", "x": [{}]}',
        '{"prompt": "a", "\\ud83d": 1}',
        '{"prompt": "a", "x": {"\\ud83d": 1}}',
        '{"messages": "' + "[" * 100_000 + '"}',
        '{"messages": "' + "9" * 5000 + '"}',
        '{"prompt": "a", "prompt_id": "\\ud83d"}',
        '{"prompt": "a", "split": {"a": []}}',
    ],
    ids=range(11),
)
def test_lines_that_json_allows_and_few_expect(line: str, tmp_path: Path) -> None:
    read(tmp_path / "p.jsonl", line.encode())


KINDS = st.sampled_from(
    [
        pa.timestamp("ns"), pa.timestamp("s"), pa.timestamp("us", "UTC"), pa.time64("ns"), pa.date32(), pa.date64(),
        pa.duration("ns"), pa.int64(), pa.uint64(), pa.float16(), pa.bool_(), pa.binary(), pa.decimal128(38, 2),
        pa.large_string(), pa.dictionary(pa.int8(), pa.string()), pa.null(), pa.struct([("a", pa.date32())]),
        pa.map_(pa.string(), pa.int8()), pa.list_(pa.timestamp("ns")), pa.month_day_nano_interval(),
    ]
)  # fmt: skip


def column(kind: pa.DataType, number: int) -> pa.Array:
    """Return two values of any type, from a number that may be out of its range."""
    for make in (
        lambda: pa.array([number, None], pa.int64()).cast(kind, safe=False),
        lambda: pa.array([number, None], pa.int64()).view(kind),
        lambda: pa.array([number, None], pa.int32()).cast(kind, safe=False),
        lambda: pa.array([str(number), None]).cast(kind),
        lambda: pa.nulls(2, kind),
    ):
        try:
            made = make()
        except (pa.ArrowException, OverflowError, ValueError):
            continue
        return made
    raise AssertionError(kind)


@examples(60)
@given(
    KINDS,
    st.integers(-(2**62), 2**62) | st.integers(-(2**31), 2**31 - 1),
    st.sampled_from(["expected", "prompt", "split", "messages"]),
)
def test_parquet_columns_of_any_type(tmp_path_factory: pytest.TempPathFactory, kind, number: int, name: str) -> None:
    columns = {"prompt": pa.array(["a", "b"]), name: column(kind, number)}
    try:
        content = parquet(pa.table(columns))
    except pa.ArrowException:  # no Parquet file has such a column
        return
    read(tmp_path_factory.getbasetemp() / "p.parquet", content)


@pytest.mark.parametrize(
    "text",
    [
        b"prompt,prompt\na,b\n",
        b"prompt,x,x\na,b,c\n",
        b"\xff\xfe,prompt\na,b\n",
        b'"prompt\na\n',
        b"prompt\n" + b"a\0b\n",
    ],
)
def test_headers_of_csv(text: bytes, tmp_path: Path) -> None:
    read(tmp_path / "p.csv", text)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_folder_with_the_name_of_a_file_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / f"p.{kind}").mkdir()
    (tmp_path / f"p.{kind}" / "notes").write_text("x")
    with pytest.raises(PipelineError):
        read_prompts(settings_of(tmp_path))
