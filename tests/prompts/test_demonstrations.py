"""Answers to learn from: which forms are read, what is refused by file and row, which tokens are learnt."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import CHAT_TEMPLATE, tiny_tokenizer

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.prompts.demonstrations import Demonstration, read_demonstrations
from ppo_pipeline.prompts.rendering import Renderer
from ppo_pipeline.prompts.taught import Ends, taught_rows

END = 257
SYSTEM, USER, ASSISTANT = "system", "user", "assistant"


def talk(*turns: str, system: str | None = None) -> list[dict[str, str]]:
    """Return user and assistant in turns."""
    messages = [{"role": (USER, ASSISTANT)[i % 2], "content": text} for i, text in enumerate(turns)]
    return messages if system is None else [{"role": SYSTEM, "content": system}, *messages]


def read(folder: Path, *rows: Any, heldout: float = 0.0, system: str | None = None) -> list[Demonstration]:
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_demonstrations(folder / "a.jsonl", heldout, system, "sft.chat.source")


def test_each_of_trl_s_forms_is_read_and_says_what_is_learnt(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {"messages": talk("a", "b", "c", "d")},
        {"prompt": "a", "completion": "B"},
        {"prompt": talk("a", "not learnt", "c"), "completion": talk("", "e")[1:], "source": "further column"},
        {"prompt": talk("e", system="s"), "completion": [*talk("", "f", "g", "h")[1:]]},
    )
    whole = [talk("a", "b", "c", "d"), talk("a", "B"), talk("a", "not learnt", "c", "e")]
    assert [row.messages for row in found] == [*whole, talk("e", "f", "g", "h", system="s")]
    assert [row.turns for row in found] == [[1, 3], [1], [3], [2, 4]]
    assert [row.name for row in found] == [f"{tmp_path}/a.jsonl, row {i}" for i in (1, 2, 3, 4)]
    shown = read(tmp_path, {"messages": talk("a", "b")}, {"messages": talk("c", "d", system="own")}, system="S")
    assert [row.messages[0]["content"] for row in shown] == ["S", "own"]
    assert [row.turns for row in shown] == [[2], [2]]


def test_csv_parquet_and_folders_are_read_alike(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "more").mkdir(parents=True)
    (folder / "a.csv").write_text('prompt,completion\n"x, y",007\n')
    pq.write_table(pa.table({"messages": [talk("p", "q")]}), folder / "more/b.parquet")
    quoted = json.dumps(talk("r", "s")).replace('"', '""')
    (folder / "z.csv").write_text(f'messages\n"{quoted}"\n')
    found = read_demonstrations(folder, 0.0, None, "sft.chat.source")
    assert [row.messages for row in found] == [talk("x, y", "007"), talk("p", "q"), talk("r", "s")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "a"}], "row 1: `prompt` without `completion`"),
        ([{"prompt": "a", "completions": "b"}], "Did you mean 'completion'"),
        ([{"question": "a", "answer": "b"}], r"neither `messages` nor `prompt` and `completion`.* It has 'question'"),
        ([{"prompt": "a", "completion": " \n"}], "row 1: an empty answer in `completion`"),
        ([{"prompt": "a", "completion": []}], "an empty answer in `completion`"),
        ([{"messages": talk("a", " ")}], "an empty answer in `messages`"),
        ([{"messages": [{"role": ASSISTANT, "content": None}]}], "an empty answer in `messages`"),
        ([{"messages": talk("a")}], "row 1: the last message is the user's"),
        ([{"messages": talk("a", "b", "c")}], "the last message is the user's"),
        ([{"messages": talk("", "b")[1:]}], "the first message is the assistant's"),
        ([{"prompt": talk("a", "b"), "completion": "c"}], "messages 2 and 3 are both the assistant's"),
        ([{"messages": talk("a", "b"), "completion": "c"}], "both `messages` and"),
        ([{"prompt": "", "completion": "c"}], "empty: neither"),
        ([{"prompt": "a", "completion": 7}], "completion: `messages` must be a list"),
        ([{"prompt": "a", "completion": "b", "tools": [{}]}], "would not see the column 'tools'"),
        ([{"prompt": "a", "completion": "b"}, {"messages": talk("a", "b")}], r"row 2: the same as \S*jsonl, row 1"),
        (
            [{"prompt": "a", "completion": c, "split": s} for c, s in (("b", "train"), ("c", "heldout"))],
            r"row 2: split 'heldout', and \S*a.jsonl, row 1 with the same prompt is 'train'",
        ),
        ([{"prompt": "a", "completion": "b", "split": "test"}], "neither 'train' nor 'heldout'"),
        ([{"prompt": "a", "completion": "b", "split": "heldout"}], "no row is left to train on"),
    ],
)  # fmt: skip
def test_what_cannot_be_learnt_is_named_by_file_and_row(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        read(tmp_path, *rows)


def test_a_missing_source_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"sft\.chat\.source: no file or folder"):
        read_demonstrations(tmp_path / "gone.jsonl", 0.0, None, "sft.chat.source")


def test_one_prompt_s_answers_are_all_on_one_side(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "completion": text} for i in range(40) for text in ("b", "c")]
    found = read(tmp_path, *rows, heldout=0.5)
    sides = [row.split for row in found]
    assert sides[::2] == sides[1::2]
    assert 10 <= sides.count("heldout") // 2 <= 30
    more = read(tmp_path, {"prompt": "new", "completion": "d"}, *rows, heldout=0.5)
    assert [row.split for row in more[1:]] == sides


# ---- tokens


def taught(tmp_path: Path, tokenizer: Any, *rows: Any, template: str = "auto") -> Any:
    return taught_rows(read(tmp_path, *rows), Renderer(tokenizer, template), Ends([END], tokenizer))


def texts(tokenizer: Any, row: Any) -> list[str]:
    """Return what is learnt, and the whole, as text."""
    return [*(tokenizer.decode(row.ids[start:end]) for start, end in row.spans), tokenizer.decode(row.ids)]


def test_every_answer_of_a_conversation_is_learnt_with_its_end(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(CHAT_TEMPLATE.replace("<|end|>", "<|end|>\n"))
    rows = taught(
        tmp_path, tokenizer, {"messages": talk("a", "bc", "d", "e", system="s")}, {"prompt": "a", "completion": "x"}
    )
    assert [texts(tokenizer, row) for row in rows] == [
        ["bc<|end|>", "e<|end|>",
         "<|system|>s<|end|>\n<|user|>a<|end|>\n<|assistant|>bc<|end|>\n<|user|>d<|end|>\n<|assistant|>e<|end|>"],
        ["x<|end|>", "<|user|>a<|end|>\n<|assistant|>x<|end|>"],
    ]  # fmt: skip
    assert [row.taught for row in rows] == [5, 2]
    given = taught(tmp_path, tokenizer, {"prompt": talk("a", "bc", "d"), "completion": "e"})
    assert texts(tokenizer, given[0])[:-1] == ["e<|end|>"]


def test_the_tokens_are_those_that_a_template_with_generation_marks_shows(tmp_path: Path) -> None:
    """transformers' own mask of the assistant's tokens, where a template has {% generation %}."""
    marked = CHAT_TEMPLATE.replace(
        "{{ message['content'] }}<|end|>",
        "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
        "{% else %}{{ message['content'] }}<|end|>{% endif %}",
    )
    messages = talk("a", "bc", "d", "e f g", system="s")
    expected = tiny_tokenizer(marked).apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    [row] = taught(tmp_path, tiny_tokenizer(), {"messages": messages})
    mask = [int(any(start <= i < end for start, end in row.spans)) for i in range(len(row.ids))]
    assert (row.ids, mask) == (expected["input_ids"], expected["assistant_masks"])


THINKS = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% if m['role'] == 'assistant' and not loop.last %}"
    "{{ m['content'].split('</think>')[-1] }}{% else %}{{ m['content'] }}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_a_template_that_drops_earlier_thoughts_makes_a_part_of_each_answer(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(THINKS)
    rows = taught(tmp_path, tokenizer, {"messages": talk("a", "hm</think>b", "c", "d", "e", "f")})
    assert [texts(tokenizer, row) for row in rows] == [
        ["hm</think>b<|end|>", "<|user|>a<|end|><|assistant|>hm</think>b<|end|>"],
        ["d<|end|>", "f<|end|>",
         "<|user|>a<|end|><|assistant|>b<|end|><|user|>c<|end|><|assistant|>d<|end|><|user|>e<|end|><|assistant|>f<|end|>"],
    ]  # fmt: skip
    assert len({row.name for row in rows}) == 1


def test_without_a_template_the_answer_follows_its_prompt_and_ends(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(None)
    rows = taught(
        tmp_path, tokenizer, {"prompt": "2+2=", "completion": "4"}, {"prompt": talk("a", "b", "c"), "completion": "d"}
    )
    assert [texts(tokenizer, row) for row in rows] == [
        ["4<|end|>", "2+2=4<|end|>"],
        [" d<|end|>", "User: a\nAssistant: b\nUser: c\nAssistant: d<|end|>"],
    ]


@pytest.mark.parametrize(
    ("template", "messages", "message"),
    [
        (CHAT_TEMPLATE.replace("<|assistant|>{% endif", "<|assistant|><think>{% endif"), talk("a", "b"),
         r"row 1: .*writes a prompt otherwise where the answer follows: .*<think>"),
        (CHAT_TEMPLATE.replace("<|end|>", "\n"), talk("a", "b"), r"row 1: the answer ends in .*never learn to stop"),
        (CHAT_TEMPLATE.replace("message['content']", "message['content'].split('</think>')[-1]"),
         talk("a", "b", "c", "hm</think>f"), r"row 1, message 4: .*leaves out or changes a part of the answer"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_learnt_from_is_refused(
    tmp_path: Path, template: str, messages: Any, message: str
) -> None:
    with pytest.raises(PipelineError, match=message):
        taught(tmp_path, tiny_tokenizer(template), {"messages": messages})


def test_a_token_that_joins_prompt_and_answer_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {c: i for i, c in enumerate("abx?")} | {"ab": 4, "<e>": 5}
    joining = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(words, [("a", "b")])), eos_token="<e>")
    rows = read(tmp_path, {"prompt": "xa", "completion": "b?"})
    with pytest.raises(PipelineError, match=r"row 1: the tokenizer joins the prompt's end 'xa' with .*'b\?'"):
        taught_rows(rows, Renderer(joining, "plain"), Ends([5], joining))
    rows = read(tmp_path, {"prompt": "xa", "completion": "?b"})
    assert taught_rows(rows, Renderer(joining, "plain"), Ends([5], joining))[0].ids == [2, 0, 3, 1, 5]
