"""Reading prompt sets, rendering them, and the committed sets themselves."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import tiny_tokenizer

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.prompts.rendering import render, render_all
from ppo_pipeline.prompts.sources import read_prompts
from ppo_pipeline.settings.sections import Prompts
from ppo_pipeline.tables.prompts import PROMPTS

REPOSITORY = Path(__file__).resolve().parents[2]
SETS = REPOSITORY / "data" / "prompts"


def prompts(source: Path, **changes: object) -> Prompts:
    values = {
        "source": str(source), "system": None, "heldout_fraction": 0.2, "chat_template": "auto",
        "continue_final_message": False, "date": None, "special_tokens": "text",
    }  # fmt: skip
    return Prompts(**{**values, **changes})


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_same_rows_from_jsonl_csv_and_parquet(tmp_path: Path) -> None:
    rows = [
        {"prompt_id": "a", "prompt": "中文，逗号", "expected": "007", "split": "train"},
        {"prompt_id": "b", "prompt": "two\nlines", "expected": "x", "split": "heldout"},
    ]
    jsonl(tmp_path / "p.jsonl", *rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    (tmp_path / "p.csv").write_text(
        'prompt_id,prompt,expected,split\na,"中文，逗号",007,train\nb,"two\nlines",x,heldout\n'
    )
    expected = [
        {"prompt_id": r["prompt_id"], "messages": [{"role": "user", "content": r["prompt"]}], "split": r["split"],
         "expected": r["expected"]} for r in rows
    ]  # fmt: skip
    for name in ("p.jsonl", "p.csv", "p.parquet"):
        assert read_prompts(prompts(tmp_path / name)).to_pylist() == expected, name


def test_messages_system_prompt_and_byte_order_mark(tmp_path: Path) -> None:
    talk = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yes?"},
        {"role": "user", "content": "q"},
    ]
    own = [{"role": "system", "content": "own"}, {"role": "user", "content": "q"}]
    path = jsonl(tmp_path / "p.jsonl", {"messages": talk}, {"messages": own}, {"prompt": "p"})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    found = read_prompts(prompts(path, system="be short", heldout_fraction=0.0)).column("messages").to_pylist()
    short = {"role": "system", "content": "be short"}
    assert found == [[short, *talk], own, [short, {"role": "user", "content": "p"}]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"promt": "x"}], r"row 1: neither `prompt` nor `messages`\. Did you mean 'prompt'"),
        ([{"prompt": "a"}, {"prompt": "  "}], r"row 2: empty prompt"),
        ([{"prompt": 5}], r"row 1: empty prompt: .* found 5"),
        ([{"prompt": "a"}, {"prompt": "a"}], r"row 2: the same prompt as in .*row 1"),
        ([{"prompt_id": "i", "prompt": "a"}, {"prompt_id": "i", "prompt": "b"}], r"row 2: the same prompt_id as in"),
        ([{"prompt": "a", "split": "test"}], r"row 1: split 'test' is neither"),
        ([{"messages": [{"role": "usr", "content": "a"}]}], r"row 1: a message's role must be one of"),
        ([{"messages": []}], r"row 1: `messages` must be a list"),
        ([{"prompt": "a", "messages": [{"role": "user", "content": "a"}]}], r"row 1: both `prompt` and `messages`"),
        ([{"prompt": "a", "split": "heldout"}], r"no prompt has the split 'train'"),
        ([{"prompt": "a", "n": 1}, {"prompt": "b", "n": {"a": 1}}], r"column 'n' mixes types"),
        ([], r"no prompts in it"),
        ([[1]], r"row 1: expected a JSON object, found list"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named(tmp_path: Path, rows: list[object], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        read_prompts(prompts(jsonl(tmp_path / "p.jsonl", *rows), heldout_fraction=0.0))


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    good = json.dumps({"prompt": "x"}).encode()
    (tmp_path / "p.jsonl").write_bytes(good + b"\n" + '{"prompt": "é"}'.encode("latin-1"))
    with pytest.raises(PipelineError, match=r"p\.jsonl, row 2: not UTF-8"):
        read_prompts(prompts(tmp_path / "p.jsonl"))
    (tmp_path / "p.jsonl").write_bytes(good + b"\n{'prompt': 1}")
    with pytest.raises(PipelineError, match=r"p\.jsonl, row 2: not a JSON object"):
        read_prompts(prompts(tmp_path / "p.jsonl"))
    (tmp_path / "p.parquet").write_bytes(b"PAR1 no")
    for name, message in (("p.parquet", "not readable"), ("p.txt", "no file or folder"), ("q", "no file or folder")):
        with pytest.raises(PipelineError, match=message):
            read_prompts(prompts(tmp_path / name))
    (tmp_path / "empty").mkdir()
    with pytest.raises(PipelineError, match=r"no \.jsonl, .* or \.parquet file in this folder"):
        read_prompts(prompts(tmp_path / "empty"))


def test_the_split_by_hash_is_stable_and_near_its_share(tmp_path: Path) -> None:
    rows = [{"prompt": f"prompt {i}"} for i in range(1000)]
    first = read_prompts(prompts(jsonl(tmp_path / "a.jsonl", *rows[:500])))
    both = read_prompts(prompts(jsonl(tmp_path / "b.jsonl", *rows[::-1])))
    found = dict(zip(both.column("prompt_id").to_pylist(), both.column("split").to_pylist(), strict=True))
    assert all(
        found[i] == s for i, s in zip(*(first.column(c).to_pylist() for c in ("prompt_id", "split")), strict=True)
    )
    assert 150 < list(found.values()).count("heldout") < 250


def test_rendering_with_and_without_a_chat_template() -> None:
    talk = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    chat, plain = tiny_tokenizer(), tiny_tokenizer(chat_template=None)
    text, ids = render(chat, talk, "auto")
    assert text == "<|system|>s<|end|><|user|>q<|end|><|assistant|>"
    assert ids == chat.apply_chat_template(talk, add_generation_prompt=True, return_dict=True)["input_ids"]
    for tokenizer, how in ((plain, "auto"), (chat, "plain")):
        assert render(tokenizer, talk, how)[0] == "System: s\nUser: q\nAssistant:"
        assert render(tokenizer, talk[1:], how) == ("q", tokenizer("q")["input_ids"])


def test_a_prompt_that_is_too_long_is_named() -> None:
    talk = [[{"role": "user", "content": "q"}], [{"role": "user", "content": "q" * 99}]]
    with pytest.raises(PipelineError, match=r"prompt 'b' has 102 tokens, rollout\.max_prompt_tokens is 50"):
        render_all(tiny_tokenizer(), ["a", "b"], talk, "auto", 50)


def committed(name: str) -> list[dict]:
    return [json.loads(line) for line in (SETS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_committed_sets_are_what_the_script_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, REPOSITORY / "scripts/make_prompts.py", "--folder", tmp_path], check=True)
    for name in ("english.jsonl", "chinese.jsonl"):
        assert (tmp_path / name).read_bytes() == (SETS / name).read_bytes()


@pytest.mark.parametrize(("name", "least"), [("english", 300), ("chinese", 80)])
def test_the_committed_sets_are_sound(name: str, least: int) -> None:
    rows = committed(name)
    PROMPTS.checked(read_prompts(prompts(SETS / f"{name}.jsonl")), name)
    assert len(rows) >= least
    kinds = {row["kind"] for row in rows}
    assert len(kinds) >= 6
    for split in ("train", "heldout"):
        assert {row["kind"] for row in rows if row["split"] == split} == kinds
    trained = {(row["kind"], row["item"].lower()) for row in rows if row["split"] == "train"}
    assert not [row for row in rows if row["split"] == "heldout" and (row["kind"], row["item"].lower()) in trained]
    for row in rows:
        *example, question = row.get("messages") or [{"content": row["prompt"]}]
        assert row["item"] in question["content"]
        assert row["expected"]
        assert not example or example[0]["content"] != question["content"]


def test_the_answers_that_can_be_computed_are_right() -> None:
    checked = 0
    for row in committed("english"):
        item, numbers = row["item"], [int(n) for n in re.findall(r"\d+", row["item"])]
        truth = {
            "repeat": lambda i=item: i, "lowercase": lambda i=item: i.lower(), "uppercase": lambda i=item: i.upper(),
            "sum": lambda n=numbers: str(sum(n)), "bigger": lambda n=numbers: str(max(n)),
        }.get(row["kind"])  # fmt: skip
        if truth is not None:
            assert row["expected"] == truth(), row
            checked += 1
    assert checked > 250


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (r'{"prompt": "cut \ud83d"}', r"p\.jsonl, row 2: "),
        (r'{"prompt": "b", "expected": "\ud83d"}', r"p\.jsonl.*'expected'"),
        (f'{{"prompt": "b", "expected": {10**30}}}', r"p\.jsonl.*'expected'"),
    ],
    ids=["half a character", "half a character in a column", "a number beyond 64 bits"],
)
def test_values_that_no_table_can_hold_are_named(tmp_path: Path, line: str, message: str) -> None:
    """Valid JSON all of them; half a surrogate pair is what cutting an emoji leaves."""
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n' + line)
    with pytest.raises(PipelineError, match=message):
        read_prompts(prompts(tmp_path / "p.jsonl"))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_prompt_id_of_0_is_kept(tmp_path: Path, kind: str) -> None:
    rows = [{"prompt_id": i, "prompt": f"p{i}"} for i in range(3)]
    path = jsonl(tmp_path / "p.jsonl", *rows)
    if kind == "parquet":
        path = tmp_path / "p.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path)
    assert read_prompts(prompts(path, heldout_fraction=0.0)).column("prompt_id").to_pylist() == ["0", "1", "2"]


def test_csv_values_that_are_no_plain_numbers_stay_text_and_messages_are_json(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("\ufeffprompt,expected\na,007\nb,1.50\nc,NA\nd,true\ne,\nf,2024-01-01\n", encoding="utf-8")
    found = read_prompts(prompts(path))
    assert found.column_names == ["prompt_id", "messages", "split", "expected"]
    assert found.column("expected").to_pylist() == ["007", "1.50", "NA", "true", "", "2024-01-01"]
    path.write_text('messages\n"[{""role"": ""user"", ""content"": ""hi""}]"\n')
    assert read_prompts(prompts(path, heldout_fraction=0.0)).column("messages").to_pylist() == [
        [{"role": "user", "content": "hi"}]
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"prompt\na\n \n", r"p\.csv, row 2: empty prompt"),
        (b"prompt,expected\na,1\n,2\n", r"p\.csv, row 2: empty prompt"),
        (b"messages\nhello\n", r"p\.csv, row 1: `messages` is text that is not JSON"),
        (b"prmpt\na\n", r"p\.csv, row 1: neither .*Did you mean 'prompt'"),
        (b"prompt,expected\na\n", r"p\.csv: not readable: .*Expected 2 columns, got 1"),
        (b"", r"p\.csv: not readable: Empty CSV file"),
        (b"prompt\n", r"p\.csv: no prompts in it"),
        (b"prompt\ngood\ncaf\xe9\n", r"p\.csv, row 2: not UTF-8"),
    ],
)
def test_a_bad_csv_is_named(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "p.csv").write_bytes(text)
    with pytest.raises(PipelineError, match=message):
        read_prompts(prompts(tmp_path / "p.csv", heldout_fraction=0.0))


def test_a_folder_is_read_in_the_order_of_its_names_and_repeats_name_both_files(tmp_path: Path) -> None:
    jsonl(tmp_path / "b.jsonl", {"prompt": "from b"})
    (tmp_path / "a.csv").write_text("prompt\nfrom a\n")
    (tmp_path / "README.md").write_text("no prompts")
    found = read_prompts(prompts(tmp_path, heldout_fraction=0.0)).column("messages").to_pylist()
    assert [m[0]["content"] for m in found] == ["from a", "from b"]
    jsonl(tmp_path / "c.jsonl", {"prompt": "new"}, {"prompt": "from a"})
    with pytest.raises(PipelineError, match=r"c\.jsonl, row 2: the same prompt as in .*a\.csv, row 1"):
        read_prompts(prompts(tmp_path))


def test_the_id_is_the_sha256_of_the_messages(tmp_path: Path) -> None:
    """From sha256sum; other ids would move prompts between training and held-out."""
    found = read_prompts(prompts(jsonl(tmp_path / "p.jsonl", {"prompt": "a"}, {"prompt": "猫?"}), heldout_fraction=0.0))
    assert found.column("prompt_id").to_pylist() == ["6252ebb39510", "42413ae500ac"]


def test_the_share_held_out_is_a_threshold_and_a_split_column_comes_first(tmp_path: Path) -> None:
    """The hash of 'a' starts with 6252ebb3: 0.3841 of the way. So it is held out from a share of 0.385 on."""
    for share, split in ((0.0, "train"), (0.384, "train"), (0.385, "heldout"), (1.0, "heldout")):
        path = jsonl(tmp_path / "p.jsonl", {"prompt": "a"}, {"prompt": "b", "split": "train"})
        found = read_prompts(prompts(path, heldout_fraction=share)).column("split").to_pylist()
        assert found == [split, "train"], share
