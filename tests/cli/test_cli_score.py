"""`ppo-pipeline score`: rules by hand-worked numbers, columns, rounds, files of pairs, and what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reward_models import save_reward_model
from score_project import ENGLISH, MODEL, RULE, ask, bare_project, component, python, rows, run, settings, write


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare_project(tmp_path, monkeypatch)


ROME = ["--prompt", "Capital of Italy?", "--column", "expected=Rome", "--column", "exact_case=false"]
ANSWERS = ["Rome", "The capital of Italy is Rome.", "Paris", ""]


def test_the_committed_rules_by_hand() -> None:
    """1 for the answer itself; 1 or -1 for it as a word, less 0.04 a character, 1 at most; `notebook` weighs 0."""
    found = rows(*ROME, *ANSWERS)
    assert [row["response"] for row in found] == ANSWERS
    assert {row["prompt"] for row in found} == {"Capital of Italy?"}
    assert [list(row["components"].values()) for row in found] == [
        pytest.approx([1.0, 1 - 0.16, 1 - 0.008]),
        pytest.approx([0.0, 1 - 1.0, 1 - 28 * 0.002]),
        pytest.approx([0.0, -1 - 0.2, -1 - 0.01]),
        pytest.approx([0.0, -1.0, -1.0]),
    ]
    assert [row["score"] for row in found] == pytest.approx([1.84, 0.0, -1.2, -1.0])
    assert all(list(row) == ["prompt", "response", "score", "components"] for row in found)


def test_the_table_in_a_pipe_and_its_formula() -> None:
    settings(RULE, {**RULE, "name": "response", "weight": -0.25}, {**RULE, "name": "unused", "weight": 0.0})
    shown = run("--prompt", "?", "--column", "expected=a", "a", "b\n\t\x1b[31m" + "c" * 200)
    assert shown.stdout.splitlines() == [
        "response\tscore\tfound\treward.response\tunused",
        "a\t+0.750\t+1.000\t+1.000\t+1.000",
        "b\\n\\t\\x1b[31m" + "c" * 200 + "\t+0.000\t+0.000\t+0.000\t+0.000",
    ]
    assert shown.stderr == "score = 1 x found - 0.25 x response + 0 x unused\n"


def test_a_terminal_wraps_a_long_response_and_keeps_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    shown = run(*ROME, "z" * 200)
    assert shown.stdout.count("z") == 200
    assert "score = 1 x answer" in shown.stdout
    assert not shown.stderr


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("4", 4),
        ('"4"', "4"),
        ("-0.5", -0.5),
        ("true", True),
        ('["four", "vier"]', ["four", "vier"]),
        ("New York", "New York"),
        ("a=b", "a=b"),
        ("007", "007"),
        ("NaN", "NaN"),
        ("", ""),
        ("null", None),
    ],
    ids=["number", "quoted", "fraction", "truth", "list", "text", "equals", "zeros", "nan", "empty", "null"],
)
def test_a_column_is_json_or_else_text(value: str, meant: Any) -> None:
    settings(python("kinds"))
    rows(*ask("a", "b"), "--column", f"expected={value}")
    assert sys.modules["score_functions"].seen == [[meant, meant]]
    assert type(sys.modules["score_functions"].seen[0][0]) is type(meant)


def test_a_response_that_begins_with_a_dash_stands_behind_two() -> None:
    settings(RULE)
    assert component("found", "--prompt", "?", "--column", "expected=-5", "--", "-5", "--help") == [1.0, 0.0]


def test_rounds_have_settings_of_their_own() -> None:
    other = {"components": [{**RULE, "hit": 7.0}]}
    settings(RULE, rounds={"r001": {"parent": "r000"}, "r002": {"parent": "r001", "reward": other}})
    given = [*ask("a"), "--column", "expected=a"]
    assert component("found", *given) == component("found", *given, "--round", "r001") == [1.0]
    assert component("found", *given, "--round", "r000") == [1.0]
    assert component("found", *given, "--round", "r002") == [7.0]
    assert "no round 'r02'. Did you mean 'r002'?" in run(*given, "--round", "r02", code=1).output
    Path("sealed").mkdir()
    Path("sealed/rounds.yaml").write_text("r000b: {parent: r000, reward: {old: 1}}\n")
    assert "r000b is sealed" in run(*given, "--round", "r000b", code=1).output


def test_rows_of_a_file_with_columns_of_their_own_before_those_given() -> None:
    settings(RULE)
    talk = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "?"},
    ]
    path = write(
        "pairs.jsonl",
        {"prompt": "Two?", "responses": ["two", "one"], "expected": "two"},
        {"messages": talk, "response": "", "expected": None},
        {"prompt": "Two?", "response": "three", "split": "heldout"},
    )
    found = rows("--file", path, "--column", "expected=three")
    assert [(row["prompt"], row["response"], row["score"]) for row in found] == [
        ("Two?", "two", 1.0),
        ("Two?", "one", 0.0),
        (talk, "", 0.0),
        ("Two?", "three", 1.0),
    ]
    table = run("--file", path, "--column", "expected=three").stdout.splitlines()
    assert table[0] == "prompt\tresponse\tscore\tfound"
    assert table[3].startswith("One? / 1 / ?\t\t+0.000")


def test_files_of_other_kinds() -> None:
    settings(RULE)
    Path("a.json").write_text('[{"prompt": "p", "response": "a b", "expected": "b"}]')
    Path("a.csv").write_text("prompt,response,expected\np,a b,b\nq,,b\n")
    pq.write_table(pa.table({"prompt": ["p"], "responses": [["a b"]], "expected": ["b"]}), "a.parquet")
    found = {kind: [row["score"] for row in rows("--file", f"a.{kind}")] for kind in ("json", "csv", "parquet")}
    assert found == {"json": [1.0], "csv": [1.0, 0.0], "parquet": [1.0]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "respons": "a"}, "neither `response` nor `responses`. Did you mean 'response'?"),
        ({"prompt": "p"}, "neither `response` nor `responses`"),
        ({"prompt": "p", "response": "a", "responses": ["b"]}, "both `response` and `responses`; keep one"),
        ({"prompt": "p", "response": 4}, "`response` must be a text, found int"),
        ({"prompt": "p", "responses": []}, "`responses` must be a list of texts, found []"),
        ({"prompt": "p", "responses": "a"}, "`responses` must be a list of texts, found 'a'"),
        ({"prompt": "p", "responses": ["a", None]}, "`responses` must be a list of texts, found ['a', None]"),
        ({"response": "a"}, "neither `prompt` nor `messages`"),
        ({"prompt": "", "response": "a"}, "empty prompt"),
        ({"prompt": "p", "response": "a", "tools": "s"}, "the model would not see the column 'tools'"),
        ({"prompt": "p", "response": "a", "split": "test"}, "split 'test' is neither 'train' nor 'heldout'"),
        ({"prompt": "p", "response": "\ud83d"}, "half of a character"),
        ({"prompt": "\ud83d", "response": "a"}, "half of a character"),
        ({"prompt": "p", "response": "a", "expected": []}, "its `expected` is empty"),
        ([1], "expected a JSON object, found list"),
    ],
)
def test_a_row_that_cannot_be_scored_is_named(row: Any, message: str) -> None:
    settings(RULE)
    path = write("pairs.jsonl", {"prompt": "p", "response": "a", "expected": ["b"]}, row)
    told = run("--file", path, code=1).output
    assert "pairs.jsonl, row 2" in told
    assert message in told


def test_a_column_of_no_single_type_is_named_with_its_file() -> None:
    settings(RULE)
    path = write("p.jsonl", *({"prompt": "p", "response": "a", "expected": "b", "more": m} for m in (1, {"a": 1})))
    assert "p.jsonl: column 'more' mixes types" in run("--file", path, code=1).output


def test_a_sample_of_a_file_is_named_in_errors() -> None:
    save_reward_model(Path("judge"))
    settings({**MODEL, "max_tokens": 8})
    path = write("p.jsonl", {"prompt": "p", "response": "a"}, {"prompt": "p", "responses": ["a", "x" * 50]})
    assert "sample 'p.jsonl, row 2, response 2': " in run("--file", path, code=1).output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --prompt and at least one response, or --file"),
        (["a"], "give either --prompt and at least one response, or --file"),
        (["--prompt", "p", "--file", "params.yaml", "a"], "give either --prompt and at least one response, or --file"),
        (["--prompt", "p"], "no response to the prompt is given"),
        (["--file", "params.yaml", "a\x1b"], "'a\\x1b': with --file the responses stand in the file"),
        (["--file", "absent.jsonl"], "'absent.jsonl' does not exist"),
        (["--prompt", "p", "a", "--column", "x"], "--column 'x': write it as NAME=VALUE"),
        (["--prompt", "p", "a", "--column", "=x"], "--column '=x': write it as NAME=VALUE"),
        (["--prompt", "p", "a", "--column", "x=1", "--column", "x=2"], "--column 'x' stands there twice"),
        (["--prompt", "p", "a", "--column", "messages=[]"], "--column 'messages': that is the prompt or the response"),
    ],
)
def test_usage_errors(arguments: list[str], message: str) -> None:
    assert message in run(*arguments, code=2).output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "p", "a"], "no column 'expected'. They have: split (text). Give it: --column expected=VALUE."),
        (["--prompt", "p", "a", "--column", "expcted=a"], "no column 'expected'. Did you mean 'expcted'?"),
        (["--prompt", "p", "a", "--column", "expected=a"], "no column 'exact_case'. "),
        (
            ["--prompt", "p", "a", "--column", "expected= ", "--column", "exact_case=0"],
            "prompt '--prompt': its `expected` is empty",
        ),
        (["--prompt", "", "a"], "--prompt: empty prompt"),
        (["--file", "params.yaml"], "'params.yaml' is not a .jsonl"),
        (["--prompt", "p", "a", "--column", "tools=s"], "the model would not see the column 'tools'"),
    ],
)
def test_refused_input(arguments: list[str], message: str) -> None:
    assert message in run(*arguments, code=1).output


def test_the_installed_command_finds_the_project_s_functions_and_loads_no_torch_for_rules() -> None:
    """In a folder that is not on Python's path, as after `ppo-pipeline init`."""
    package = "reward_functions"
    Path(package).mkdir()
    Path(package, "__init__.py").write_text("")
    Path(package, "own.py").write_text(
        "import sys\n\n\ndef reward(completions, **_):\n    return [float('torch' in sys.modules)] * len(completions)\n"
    )
    settings(RULE, python("") | {"function": "reward_functions.own:reward"})
    code = "import sys; sys.path[0] = '/nowhere'; from ppo_pipeline.cli.main import main; main()"
    path = str(ENGLISH.parent.parent)  # of the package, as an installation has it
    command = [sys.executable, "-c", code, "score", *ask("a"), "--column", "expected=a", "--json"]
    shown = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=True)
    assert json.loads(shown.stdout)["components"] == {"found": 1.0, "mine": 0.0}
