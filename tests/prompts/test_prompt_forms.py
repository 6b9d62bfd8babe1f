"""The forms that a prompt may have in a file, and the files of a folder: each is read rightly, or named in an error."""

import gzip
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from test_prompt_sources import SETS, jsonl, prompts

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.prompts.sources import read_prompts

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "The answer is"}


def read(path: Path, **changes: Any) -> list[dict[str, Any]]:
    return read_prompts(prompts(path, **{"heldout_fraction": 0.0, **changes})).to_pylist()


def one(tmp_path: Path, row: Any, **changes: Any) -> dict[str, Any]:
    (found,) = read(jsonl(tmp_path / "p.jsonl", row), **changes)
    return found


# ---- ids and split


@pytest.mark.parametrize(
    ("name", "as_given", "by_hash"),
    [
        ("english", "555330f300d4ab21862feee39643ba05", "bf0e5641909338d932bf9359ed022b82"),
        ("chinese", "9bc7bc084de1d517ce754f9b3da26009", "2f509e882dd8f03bdbebd9032a41168d"),
    ],
)
def test_ids_and_splits_are_what_they_were(tmp_path: Path, name: str, as_given: str, by_hash: str) -> None:
    """From the version before these forms: of the committed sets, and of them without prompt_id and split."""

    def digest(path: Path, **changes: Any) -> str:
        return hashlib.sha256(json.dumps(read(path, heldout_fraction=0.2, **changes)).encode()).hexdigest()[:32]

    assert digest(SETS / f"{name}.jsonl") == as_given
    rows = [json.loads(line) for line in (SETS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    bare = [{k: v for k, v in row.items() if k not in ("prompt_id", "split")} for row in rows]
    assert digest(jsonl(tmp_path / "p.jsonl", *bare)) == by_hash


def test_a_system_prompt_moves_no_prompt_and_changes_no_id(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "p.jsonl", *({"prompt": f"prompt {i}"} for i in range(200)), {"prompt": "a"})
    by_system = [read(path, heldout_fraction=0.2, system=system) for system in (None, "be short", "be kind")]
    ids, splits = ([[row[name] for row in rows] for rows in by_system] for name in ("prompt_id", "split"))
    assert ids[0] == ids[1] == ids[2]
    assert ids[0][-1] == "6252ebb39510"  # sha256sum, of the message alone
    assert splits[0] == splits[1] == splits[2]
    assert splits[0].count("heldout") > 20
    assert by_system[1][0]["messages"] == [{"role": "system", "content": "be short"}, {**USER, "content": "prompt 0"}]


def test_a_prompt_that_the_system_prompt_makes_the_same_as_another_is_a_repeat(tmp_path: Path) -> None:
    own = [{"role": "system", "content": "be short"}, USER]
    path = jsonl(tmp_path / "p.jsonl", {"prompt": "q"}, {"messages": own})
    assert len({row["prompt_id"] for row in read(path)}) == 2
    with pytest.raises(PipelineError, match=r"row 2: the same prompt as in .*row 1"):
        read(path, system="be short")


@pytest.mark.parametrize("system", ["", " \n"])
def test_a_system_prompt_without_a_word_is_refused(system: str) -> None:
    with pytest.raises(ValidationError, match="write a system prompt, or null for none"):
        prompts(Path("p"), system=system)


@pytest.mark.parametrize("date", ["2026-02-30", "26 Jul 2024", "2024-7-26", "20240726", 20240726])
def test_a_date_is_one(date: Any) -> None:
    assert prompts(Path("p"), date="2024-07-26").date == "2024-07-26"
    with pytest.raises(ValidationError):
        prompts(Path("p"), date=date)


@pytest.mark.parametrize(("given", "kept"), [(7, "7"), (7.0, "7"), ("007", "007"), ("", "6252ebb39510")])
def test_a_prompt_id_is_text_or_a_whole_number(tmp_path: Path, given: Any, kept: str) -> None:
    assert one(tmp_path, {"prompt": "a", "prompt_id": given})["prompt_id"] == kept
    for bad in (7.5, True, ["a"], {"a": 1}):
        with pytest.raises(PipelineError, match="row 1: a prompt_id must be text or a whole number"):
            one(tmp_path, {"prompt": "a", "prompt_id": bad})


def test_an_empty_split_is_none(tmp_path: Path) -> None:
    """By the hash, as for a row without one: 6252ebb3 is 0.384 of the way."""
    (tmp_path / "p.csv").write_text("prompt,split\na,\nb,train\n")
    for share, split in ((0.384, "train"), (0.385, "heldout")):
        assert [row["split"] for row in read(tmp_path / "p.csv", heldout_fraction=share)] == [split, "train"]
    (tmp_path / "p.csv").write_text("prompt,split\na, \n")
    with pytest.raises(PipelineError, match="split ' ' is neither"):
        read(tmp_path / "p.csv")


# ---- conversations


def test_a_last_message_by_the_assistant_needs_the_setting(tmp_path: Path) -> None:
    row = {"messages": [USER, ANSWER]}
    with pytest.raises(PipelineError, match=r"p\.jsonl, row 1: the last message .* prompts\.continue_final_message"):
        one(tmp_path, row)
    assert one(tmp_path, row, continue_final_message=True)["messages"] == [USER, ANSWER]
    assert one(tmp_path, {"messages": [USER, ANSWER, USER]})["messages"] == [USER, ANSWER, USER]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "json"])
def test_a_prompt_may_be_a_list_of_messages(tmp_path: Path, kind: str) -> None:
    """As TRL's conversational data sets and verl's have it; Parquet gives every message the keys of all."""
    rows = [
        {"prompt": [{"role": "system", "content": "s"}, USER]},
        {"prompt": [{**USER, "content": "r", "name": None}]},
    ]
    path = jsonl(tmp_path / "p.jsonl", *rows)
    if kind == "parquet":
        path = tmp_path / "p.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path)
    if kind == "json":
        path = tmp_path / "p.json"
        path.write_text(json.dumps(rows))
    found = read(path)
    assert [row["messages"] for row in found] == [rows[0]["prompt"], [{**USER, "content": "r"}]]
    as_messages = jsonl(tmp_path / "m.jsonl", {"messages": rows[0]["prompt"]})
    assert read(as_messages)[0]["prompt_id"] == found[0]["prompt_id"]


def test_where_both_columns_are_there_the_empty_one_counts_as_absent(tmp_path: Path) -> None:
    talk = json.dumps([USER]).replace('"', '""')
    (tmp_path / "p.csv").write_text(f'prompt,messages\na,\n,"{talk}"\n')
    expected = [[{**USER, "content": "a"}], [USER]]
    assert [row["messages"] for row in read(tmp_path / "p.csv")] == expected
    rows = ({"prompt": "a", "messages": []}, {"prompt": None, "messages": [USER]})
    assert [row["messages"] for row in read(jsonl(tmp_path / "p.jsonl", *rows))] == expected
    (tmp_path / "p.csv").write_text("prompt,messages\n,\na,\n")
    with pytest.raises(PipelineError, match=r"row 1: empty prompt"):
        read(tmp_path / "p.csv")


def test_parts_of_text_are_joined(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two", "image_url": None}]
    assert one(tmp_path, {"messages": [{"role": "user", "content": parts}]})["messages"][0]["content"] == "one two"


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({**USER, "tool_calls": [{"name": "f"}]}, "the model would not see its 'tool_calls'"),
        ({**USER, "name": "Ann"}, "the model would not see its 'name'"),
        ({**USER, "weight": 0}, "the model would not see its 'weight'"),
        ({"role": "user", "content": None, "tool_calls": [1]}, "the model would not see its 'tool_calls'"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, "content must be text"),
        ({"role": "user", "content": [{"type": "text", "text": "x", "image": "y"}]}, "content must be text"),
        ({"role": "user", "content": ["x"]}, "content must be text"),
        ({"role": "user", "content": []}, "content must be text"),
        ({"role": "user", "content": True}, "content must be text, found True"),
        ({"role": "user", "content": "a\0b"}, r"U\+0000"),
        ({"role": "tool", "content": "x"}, "role must be one of system, user, assistant"),
        ({"from": "human", "value": "x"}, "role must be one of system, user, assistant"),
        ("hello", "role must be one of system, user, assistant"),
    ],
)
def test_what_no_model_would_see_is_refused(tmp_path: Path, message: Any, error: str) -> None:
    for row in ({"messages": [message]}, {"prompt": [message]}, {"messages": json.dumps([message])}):
        with pytest.raises(PipelineError, match=rf"p\.jsonl, row 1: .*{error}"):
            one(tmp_path, row)


@pytest.mark.parametrize("column", ["tools", "chat_template_kwargs", "images"])
def test_a_column_that_other_programs_show_the_model_is_refused(tmp_path: Path, column: str) -> None:
    with pytest.raises(PipelineError, match=rf"row 1: the model would not see the column '{column}'"):
        one(tmp_path, {"prompt": "a", column: ["x"]})
    assert one(tmp_path, {"prompt": "a", column: None})[column] is None


@pytest.mark.parametrize("prompt", [True, 5, 2.5, {"role": "user", "content": "q"}])
def test_a_prompt_that_is_neither_text_nor_a_list_is_refused(tmp_path: Path, prompt: Any) -> None:
    with pytest.raises(PipelineError, match="row 1: empty prompt: a message's content must be text, found"):
        one(tmp_path, {"prompt": prompt})


def test_a_text_that_looks_like_a_list_is_text(tmp_path: Path) -> None:
    assert one(tmp_path, {"prompt": "[1, 2]"})["messages"] == [{**USER, "content": "[1, 2]"}]


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    for text in ('{"prompt": "a", "prompt": "b"}', '{"messages": [{"role": "user", "content": "a", "content": "b"}]}'):
        (tmp_path / "p.jsonl").write_text(text)
        with pytest.raises(PipelineError, match=r"row 1: .*the key '(prompt|content)' stands in it more than once"):
            read(tmp_path / "p.jsonl")


def test_line_ends_and_byte_order_marks_are_no_part_of_a_prompt(tmp_path: Path) -> None:
    for name, text in (("p.jsonl", '{"prompt": "a"}\r\n{"prompt": "b"}'), ("p.csv", "prompt\r\na\r\nb\r\n")):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert [row["messages"][0]["content"] for row in read(tmp_path / name)] == ["a", "b"]
    for name, text in (("p.jsonl", '{"prompt": "a"}'), ("p.csv", "prompt\na\n"), ("p.json", '[{"prompt": "a"}]')):
        for encoding in ("utf-16", "utf-16-le"):
            (tmp_path / name).write_bytes(text.encode(encoding))
            with pytest.raises(PipelineError, match=name):
                read(tmp_path / name)


# ---- files and folders


def write_all_kinds(folder: Path) -> list[str]:
    """Write a prompt into a file of each kind, two of them in a subfolder; return the prompts in the order of paths."""
    (folder / "d").mkdir(parents=True)
    (folder / "a.csv").write_text("prompt\na\n")
    (folder / "b.JSONL").write_text('{"prompt": "b"}\n')
    (folder / "c.json").write_text('[{"prompt": "c"}]')
    (folder / "d/e.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "d"}\n', mtime=0))
    (folder / "d/f.tsv").write_text("prompt\tn\ne, e\t1\n")
    pq.write_table(pa.table({"prompt": ["f"]}), folder / "g.parquet")
    return ["a", "b", "c", "d", "e, e", "f"]


def test_a_folder_s_files_of_all_kinds_are_read_with_its_subfolders(tmp_path: Path) -> None:
    expected = write_all_kinds(tmp_path / "set")
    for left_out in (".DS_Store", ".hidden/x.bin", "README", "README.txt", "LICENSE", "notes.md", "a.csv.dvc"):
        (tmp_path / "set" / left_out).parent.mkdir(exist_ok=True)
        (tmp_path / "set" / left_out).write_text("x")
    found = read(tmp_path / "set")
    assert [row["messages"][0]["content"] for row in found] == expected
    assert [row["n"] for row in found] == [None] * 4 + [1, None]


@pytest.mark.parametrize("name", ["x.txt", "x.jsonl.bz2", "x.xlsx", "x.arrow", "d/x.csv.gz", "x", "x.jsonl.bak"])
def test_a_file_of_a_folder_that_is_not_read_is_an_error(tmp_path: Path, name: str) -> None:
    write_all_kinds(tmp_path / "set")
    (tmp_path / "set" / name).write_text("x")
    with pytest.raises(PipelineError, match=rf"set/{name}: not a \.jsonl, .* or \.parquet file; take it out"):
        read(tmp_path / "set")


def test_links_and_empty_files_of_a_folder_are_named(tmp_path: Path) -> None:
    write_all_kinds(tmp_path / "set")
    (tmp_path / "set/z.jsonl").write_text("")
    with pytest.raises(PipelineError, match=r"z\.jsonl: no prompts in it"):
        read(tmp_path / "set")
    (tmp_path / "set/z.jsonl").unlink()
    (tmp_path / "set/link").symlink_to(tmp_path / "set/d")
    with pytest.raises(PipelineError, match="set/link: a link to a folder"):
        read(tmp_path / "set")
    shutil.rmtree(tmp_path / "set/d")
    with pytest.raises(PipelineError, match="set/link: not a "):
        read(tmp_path / "set")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.json", b'{"data": []}', r"p\.json: expected a list of objects, found dict"),
        ("p.json", b'{"prompt": "a"}\n{"prompt": "b"}', r"p\.json: not JSON: .* call it \.jsonl"),
        ("p.json", b"[1]", r"p\.json, row 1: expected a JSON object, found int"),
        ("p.json", b"[]", r"p\.json: no prompts in it"),
        ("p.json", b'["\xff"]', r"p\.json: not UTF-8"),
        ("p.jsonl.gz", b'{"prompt": "a"}', r"p\.jsonl\.gz: not readable"),
        ("p.jsonl.gz", gzip.compress(b'{"prompt": "a"}', mtime=0)[:-9], r"p\.jsonl\.gz: not readable"),
        ("p.tsv", b"prompt,expected\na,b\n", r"p\.tsv, row 1: neither `prompt` nor `messages`"),
        (
            "p.csv.gz",
            b"prompt\na\n",
            r"'.*p\.csv\.gz' is not a \.jsonl, \.jsonl\.gz, \.json, \.csv, \.tsv or \.parquet",
        ),
    ],
)
def test_a_file_that_is_not_what_its_name_says(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PipelineError, match=message):
        read(tmp_path / name)
