"""`ppo-pipeline score` with functions, reward models and services: what of the base model each needs, and is given."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_tokenizer
from reward_models import save_reward_model
from reward_server import lengths
from score_project import HTTP, MODEL, RULE, ask, bare_project, base, component, python, rows, run, settings, write
from transformers import AutoModelForSequenceClassification, AutoTokenizer


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare_project(tmp_path, monkeypatch)


def test_a_function_that_reads_neither_prompts_nor_tokens_needs_no_base_model() -> None:
    settings(python("brief"))
    shown = run(*ask("abc", ""), "--json")
    assert [json.loads(line)["score"] for line in shown.stdout.splitlines()] == [-3.0, 0.0]
    assert "a function's own words" in shown.stderr
    settings(python("roles", format="messages"), system="Be brief.")
    assert component("mine", *ask("a")) == [20.0]
    assert component("mine", *ask("a"), "--column", "split=heldout") == [21.0]


@pytest.mark.parametrize("function", ["tokens", "shown", "careless", "careless_none", "dumped"])
@pytest.mark.parametrize("other", [False, True])
def test_a_function_that_reads_what_takes_the_tokenizer_says_so_where_it_is_not_here(
    function: str, other: bool
) -> None:
    if other:
        base(model="another/model")
    settings(RULE, python(function))
    told = run(*ask("a"), "--column", "expected=a", code=1).stderr
    assert "reward 'mine': " in told
    assert "raised PipelineError" not in told
    assert "`dvc repro base`" in told
    assert ("was made of 'another/model'" if other else "data/base is not here") in told
    what = {"tokens": "completion_ids", "careless_none": "completion_ids", "dumped": "completion_ids"}
    assert what.get(function, "prompts, as the policy saw them") in told


def test_a_function_is_given_the_prompt_s_text_and_the_response_s_tokens() -> None:
    """<|system|>Be brief.<|end|><|user|>Why?<|end|><|assistant|>: the tiny template's text."""
    base()
    settings(python("tokens"), python("shown", name="shown"), system="Be brief.")
    tokenizer = tiny_tokenizer()
    letters = [tokenizer.convert_tokens_to_ids(list(text)) for text in ("ab", "<|end|>", "")]
    assert all(len(ids) == len(text) for ids, text in zip(letters, ("ab", "<|end|>", ""), strict=True))
    found = rows(*ask("ab", "<|end|>", ""))
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert [row["components"]["mine"] for row in found] == [sum(ids) + end for ids in letters]
    text = "<|system|>Be brief.<|end|><|user|>Why?<|end|><|assistant|>"
    assert {row["components"]["shown"] for row in found} == {len(text) + 1000}


def test_plain_prompts_need_no_tokenizer() -> None:
    settings(python("shown"), chat_template="plain")
    assert component("mine", *ask("a")) == [len("Why?")]
    settings(system="Be brief.")
    assert component("mine", *ask("a")) == [len("System: Be brief.\nUser: Why?\nAssistant:")]


def test_a_base_of_unknown_origin_is_not_taken() -> None:
    base()
    Path("data/base/source.json").unlink()
    settings(python("tokens"))
    assert "was made of 'an unknown model'" in run(*ask("a"), code=1).output


def test_a_function_that_lacks_a_column_says_how_to_give_it() -> None:
    settings(python("thing"))
    assert component("mine", *ask("a hammer"), "--column", "thing=hammer") == [1.0]
    told = run(*ask("a"), code=1).output
    assert "reward 'mine': score_functions:thing: the prompts have no column 'thing'. They have: split (text)." in told
    assert "Give it: --column thing=VALUE." in told


def test_columns_are_as_the_prompts_table_has_them() -> None:
    """Numbers beside texts become texts, and answers lists where one of them is."""
    settings(python("kinds"))
    three = [{"prompt": p, "response": "", "expected": e} for p, e in (("a", 4), ("b", "five"), ("c", ["x", 6]))]
    rows("--file", write("rows.jsonl", *three))
    assert sys.modules["score_functions"].seen == [[["4"], ["five"], ["x", "6"]]]


def plain_logit(*texts: str) -> float:
    """Return what transformers alone says of one text or pair."""
    tokenizer = AutoTokenizer.from_pretrained("judge")
    model = AutoModelForSequenceClassification.from_pretrained("judge", dtype=torch.float32).eval()
    with torch.no_grad():
        return float(model(**tokenizer(*texts, return_tensors="pt")).logits[0].item())


def test_a_reward_model_scores_as_transformers_does() -> None:
    save_reward_model(Path("judge"))
    responses = ["Yes.", "", "A cat"]
    settings(MODEL)
    found = rows(*ask(*responses))
    expected = [plain_logit("Why?", text) for text in responses]
    assert [row["components"]["helpful"] for row in found] == pytest.approx(expected, abs=1e-5)
    assert [row["score"] for row in found] == pytest.approx([2 * number for number in expected], abs=1e-5)
    assert max(expected) - min(expected) > 0.01


def test_a_model_that_reads_the_prompt_as_the_policy_saw_it() -> None:
    save_reward_model(Path("judge"))
    settings(RULE, {**MODEL, "input": "concat"})
    given = [*ask("A cat"), "--column", "expected=a"]
    told = run(*given, code=1).output
    assert "reward 'helpful': it reads the prompt as the policy saw it" in told
    assert "data/base is not here; `dvc repro base` makes it" in told
    base()
    seen = "<|user|>Why?<|end|><|assistant|>"
    assert component("helpful", *given) == pytest.approx([plain_logit(f"{seen}A cat")], abs=1e-5)
    shutil.rmtree("data/base")
    settings(chat_template="plain")
    assert component("helpful", *given) == pytest.approx([plain_logit("Why?A cat")], abs=1e-5)


def test_what_a_reward_says_of_cut_inputs_is_not_among_the_results() -> None:
    save_reward_model(Path("judge"))
    settings({**MODEL, "max_tokens": 9, "too_long": "cut_end"})
    shown = run(*ask("ab", "x" * 50), "--json")
    assert [json.loads(line)["response"] for line in shown.stdout.splitlines()] == ["ab", "x" * 50]
    assert "1 of 2 inputs were cut at the end to 9 tokens, the first is sample 'response 2'" in shown.stderr
    settings({**MODEL, "max_tokens": 9})
    assert "sample 'response 2': " in run(*ask("ab", "x" * 50), code=1).output


def test_a_service_is_sent_what_the_stage_sends(serve: Any) -> None:
    server = serve(lengths)
    settings({**HTTP, "url": server.url, "format": "messages"}, system="Be brief.")
    assert component("judge", *ask("abc", ""), "--column", "expected=[1, 2]") == [1.0, 1.0]  # its messages
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    assert server.requests == [
        {
            "sample_ids": ["response 1", "response 2"],
            "prompts": [talk, talk],
            "completions": [[{"role": "assistant", "content": text}] for text in ("abc", "")],
            "columns": {"expected": [[1, 2], [1, 2]]},
        }
    ]


def test_a_service_that_is_sent_texts_needs_the_tokenizer(serve: Any) -> None:
    server = serve(lengths)
    settings({**HTTP, "url": server.url})
    given = [*ask("abc"), "--column", "expected=x"]
    assert "reward 'judge': it reads the prompt as the policy saw it" in run(*given, code=1).output
    assert not server.requests
    base()
    assert component("judge", *given) == [3.0]
    assert server.requests[0]["prompts"] == ["<|user|>Why?<|end|><|assistant|>"]
    told = run(*ask("abc"), code=1).output
    assert "columns: the prompts have no column 'expected'" in told
    assert "--column expected=VALUE" in told
