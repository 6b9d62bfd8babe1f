"""`ppo-pipeline show` where data is awkward: odd text, odd names, stale or missing neighbours."""

import datetime
import json
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from conftest import tiny_tokenizer

from ppo_pipeline.cli.main import main
from ppo_pipeline.tables.advantages import ADVANTAGES
from ppo_pipeline.tables.evaluation import EVALUATION
from ppo_pipeline.tables.joined import means
from ppo_pipeline.tables.prompts import PROMPTS
from ppo_pipeline.tables.reference import REFERENCE
from ppo_pipeline.tables.rewards import REWARDS
from ppo_pipeline.tables.rollouts import ROLLOUTS

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = Path("data/rounds/r001")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    FOLDER.mkdir(parents=True)


def show(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["show", *arguments])
    assert result.exit_code == code, result.output
    assert code == 0 or isinstance(result.exception, SystemExit), "a traceback instead of a message"
    return result.output


def write_rollouts(**columns: Any) -> str:
    header = "<|start_header_id|>{}<|end_header_id|>\n\n"  # not ChatML: nothing may hang on one template
    rows = {
        "sample_id": ["a", "b"], "prompt_id": ["p", "q"], "sample_index": [0, 0],
        "prompt_text": [header.format("user") + f"{text}<|eot_id|>" for text in ("what is 1?", "what is 2?")],
        "response_text": ["one", "two"], "prompt_ids": [[1], [2]], "response_ids": [[65, 66], [67]],
        "rollout_logprobs": [[-1.0, -2.0], [-3.0]], "kept_mass": [[1.0, 1.0], [1.0]],
        "finish_reason": ["stop", "length"], **columns,
    }  # fmt: skip
    ROLLOUTS.write(pa.table(rows), FOLDER / "rollouts.parquet")
    return str(FOLDER / "rollouts.parquet")


def write_rewards(ids: list[str], **components: list[float]) -> None:
    REWARDS.write(
        pa.table({"sample_id": ids, "score": [0.5, -0.25], "correct": [True, False], **components}),
        FOLDER / "rewards.parquet",
    )


def write_reference() -> None:
    lists = {"policy_logprobs": [[-1.0, -2.0], [-3.0]], "reference_logprobs": [[-1.5, -2.25], [-2.0]]}
    rows = {"sample_id": ["a", "b"], **lists, "values": [[0.1, 0.2], [0.3]], "bootstrap_value": [0.0, 0.0]}
    rows["entropy"] = [[1.1, 1.2], [1.3]]
    REFERENCE.write(pa.table(rows), FOLDER / "reference.parquet")


def write_prompts(*said: str, **extra: Any) -> str:
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    messages = pa.array([[*turns, {"role": "user", "content": text}] for text in said])
    ids = ["p", "q"][: len(said)]
    table = {"prompt_id": ids, "messages": messages, "split": ["train"] * len(said), **extra}
    PROMPTS.write(pa.table(table), Path("data/prompts.parquet"))
    return "data/prompts.parquet"


def rows_of(*arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in show(*arguments, "--json").splitlines()]


def test_the_prompt_is_the_last_user_message_that_the_model_saw() -> None:
    path = write_rollouts()
    assert "<|eot_id|>" in rows_of(path)[0]["prompt"], "without prompts.parquet: the whole rendered prompt"
    write_prompts("what is 1?", "changed since")
    first, second = rows_of(path)
    assert first["prompt"] == "what is 1?"
    assert "what is 2?" in second["prompt"], "a message that this sample was not drawn from"
    assert "start_header_id" not in show(path, "--sort", "sample_id", "--limit", "1")


def test_prompts_are_those_of_the_tables_own_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(write_rollouts()).resolve()
    write_prompts("what is 1?", "what is 2?")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert [row["prompt"] for row in rows_of(str(path))] == ["what is 1?", "what is 2?"]


def test_escape_sequences_and_markup_are_spelled_out() -> None:
    path = write_rollouts(response_text=["\x1b[31mred\x1b]0;title\x07\r", "[bold]x[/bold] [/] :smile:"])
    for output in (show(path), show(path, "--sample", "a")):
        assert "\\x1b[31mred\\x1b]0;title\\x07\\r" in output
        assert not set("\x1b\x07\r") & set(output)
    assert "[bold]x[/bold] [/] :smile:" in show(path)


def test_components_named_like_other_columns_do_not_break_the_join() -> None:
    path = write_rollouts()
    write_reference()
    write_rewards(["a", "b"], kl=[9.0, 8.0], tokens=[7.0, 6.0], prompt_id=[5.0, 4.0], rule=[0.5, -0.25])
    first = rows_of(path)[0]
    assert (first["kl"], first["reward.kl"], first["tokens"], first["reward.tokens"]) == (0.75, 9.0, 2, 7.0)
    assert (first["prompt_id"], first["reward.prompt_id"], first["rule"]) == ("p", 5.0, 0.5)
    assert "+0.750" in show(path, "--sort", "reward.kl")


def test_evaluation_with_a_component_called_tokens() -> None:
    rows = {
        "prompt_id": ["p"], "prompt_text": ["x"], "response_text": ["y"], "response_ids": [[65, 66]],
        "finish_reason": ["stop"], "score": [1.5], "correct": [True], "tokens": [0.25],
    }  # fmt: skip
    EVALUATION.write(pa.table(rows), FOLDER / "eval.parquet")
    row = rows_of(str(FOLDER / "eval.parquet"), "--sort", "tokens")[0]
    assert (row["tokens"], row["reward.tokens"]) == (2, 0.25)
    output = show(str(FOLDER / "eval.parquet"))
    assert "+1.500" in output


def test_rewards_of_other_samples_are_left_out_and_said_so() -> None:
    path = write_rollouts()
    write_rewards(["a", "c"])
    assert "rewards.parquet: left out: it is of other samples" in show(path)
    assert "score" not in json.loads(show(path, "--json").splitlines()[-1])


def test_kl_of_a_sample_without_tokens_is_zero() -> None:
    empty = {"response_ids": [[], [67]], "rollout_logprobs": [[], [-3.0]], "kept_mass": [[], [1.0]]}
    columns = {k: pa.array(v, ROLLOUTS.arrow.field(k).type) for k, v in empty.items()}
    path = write_rollouts(**columns)
    kind = REFERENCE.arrow.field("values").type
    lists = {n: pa.array([[], [-3.0]], kind) for n in ("policy_logprobs", "values", "entropy")}
    rows = {"sample_id": ["a", "b"], **lists, "reference_logprobs": pa.array([[], [-2.0]], kind)}
    REFERENCE.write(pa.table({**rows, "bootstrap_value": [0.0, 0.0]}), FOLDER / "reference.parquet")
    assert [row["kl"] for row in rows_of(path)] == [0.0, -1.0]


@pytest.mark.parametrize("schema", [ROLLOUTS, REWARDS, REFERENCE, ADVANTAGES, EVALUATION, PROMPTS])
def test_a_table_without_rows(schema: Any) -> None:
    path = FOLDER / "table.parquet"
    schema.write(schema.arrow.empty_table(), path)
    assert "0 of 0 rows" in show(str(path))
    assert show(str(path), "--json") == ""


@pytest.mark.parametrize("name", ["response_ids", "rollout_logprobs"])
def test_sorting_by_a_list_is_refused_with_the_columns_that_can(name: str) -> None:
    output = show(write_rollouts(), "--sort", name, code=1)
    assert f"column '{name}' holds a list" in output
    assert "finish_reason" in output


def test_prompts_of_any_type_become_valid_json() -> None:
    extra = {"when": [datetime.datetime(2024, 1, 2)], "raw": [b"\x00"], "weight": [float("nan")], "tags": [["x"]]}
    path = write_prompts("what is 1?", **extra)
    row = json.loads(show(path, "--json"), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (row["when"], row["weight"], row["tags"]) == ("2024-01-02 00:00:00", None, ["x"])
    output = show(path, "--sample", "p")
    assert "user: what is 1?" in output
    assert "tags: ['x']" in output
    assert "has no order" in show(path, "--sort", "messages", code=1)


def test_a_sample_reads_token_by_token_from_whichever_table() -> None:
    write_rollouts()
    write_reference()
    tiny_tokenizer().save_pretrained("data/base")
    names = ["token", "logprob", "kl", "value", "entropy"]
    for table in ("rollouts", "reference"):
        lines = show(str(FOLDER / f"{table}.parquet"), "--sample", "a").splitlines()
        header = next(line for line in lines if "logprob" in line)
        assert [word for word in header.split() if word.isalpha()] == names
        assert [line for line in lines if "+0.5000" in line and "-1.0000" in line and "+0.1000" in line]
    first = tiny_tokenizer().decode([65])
    assert any(line.split("\t")[0] == first for line in lines if "+0.5000" in line)
    (FOLDER / "rollouts.parquet").unlink()
    assert "-2.2500" in show(str(FOLDER / "reference.parquet"), "--sample", "a")


def test_a_table_is_named_by_round_or_by_path() -> None:
    path = write_rollouts()
    write_rewards(["a", "b"], rule=[0.5, -0.25])
    write_prompts("what is 1?", "what is 2?")
    assert show("r001") == show("r001", "rollouts") == show(path)
    assert show("r001", "rewards") == show(str(FOLDER / "rewards.parquet")) != show(path)
    assert show("prompts") == show("data/prompts.parquet")
    assert "Did you mean 'r001'?" in show("r01", code=1)
    assert "no table 'reward'. Did you mean 'rewards'?" in show("r001", "reward", code=1)
    assert "eval.parquet: no such file" in show("r001", "eval", code=1)
    assert "neither a Parquet file nor a round" in show("..", "rollouts", code=1)


def test_every_table_of_samples_comes_with_what_the_others_say() -> None:
    write_rollouts()
    write_rewards(["a", "b"], rule=[0.5, -0.25])
    write_reference()
    lists = {name: [[2.0, 4.0], [-1.0]] for name in ("token_rewards", "advantages", "returns")}
    lists["correct"] = pa.nulls(2, pa.bool_())  # what rewards.parquet says is shown
    ADVANTAGES.write(pa.table({"sample_id": ["a", "b"], **lists}), FOLDER / "advantages.parquet")
    wanted = {
        "sample_id": "a", "response_text": "one", "finish_reason": "stop", "tokens": 2, "score": 0.5, "rule": 0.5,
        "kl": 0.75, "value": pytest.approx(0.15), "advantage": 3.0, "correct": True,
    }  # fmt: skip
    for table in ("rollouts", "rewards", "reference", "advantages"):
        first = rows_of("r001", table)[0]
        assert {name: first[name] for name in wanted} == wanted, table
        assert [row["sample_id"] for row in rows_of("r001", table, "--where", "score < 0 and advantage = -1")] == ["b"]


def test_a_mean_of_a_list_column_is_of_each_row() -> None:
    table = pa.table({"entropy": [[0.5, 1.0], [], [3.0]], "values": pa.array([None] * 3, pa.list_(pa.float32()))})
    assert {name: column.to_pylist() for name, column in means(table, {"entropy": "e", "values": "v"}).items()} == {
        "e": [0.75, None, 3.0]
    }


def test_sorting_by_several_columns_and_from_high_to_low() -> None:
    path = write_rollouts(sample_index=[3, 3])
    write_rewards(["a", "b"])

    def order(*arguments: str) -> str:
        return "".join(row["sample_id"] for row in rows_of(path, *arguments))

    assert [order("--sort", s) for s in ("score", "-score", "sample_id", "-sample_id")] == ["ba", "ab", "ab", "ba"]
    assert order("--sort", "sample_index", "--sort", "-sample_id") == "ba"
    assert order("--sort", "score", "--descending") == "ab"
    assert "no column 'scor'. Did you mean 'score'" in show(path, "--sort", "-scor", code=1)


def test_columns_and_limit_hold_for_every_way_to_print() -> None:
    path = write_rollouts()
    assert show(path, "--columns", "finish_reason, sample_id", "--limit", "1").splitlines()[:2] == [
        "finish_reason\tsample_id", "stop\ta",
    ]  # fmt: skip
    assert rows_of(path, "--columns", "sample_id") == [{"sample_id": "a"}, {"sample_id": "b"}]
    assert rows_of(path, "--columns", "tokens", "--limit", "1", "--sample", "b") == [{"tokens": 1}]
    assert "no column 'token'. Did you mean 'tokens'" in show(path, "--columns", "token", code=1)


def test_a_sample_as_json_has_its_tokens() -> None:
    path = write_rollouts()
    write_reference()
    tokens = rows_of(path, "--sample", "a")[0]["by_token"]
    assert [{name: token[name] for name in ("token", "logprob", "kl", "value")} for token in tokens] == [
        {"token": "65", "logprob": -1.0, "kl": 0.5, "value": pytest.approx(0.1)},
        {"token": "66", "logprob": -2.0, "kl": 0.25, "value": pytest.approx(0.2)},
    ]
    assert "by_token" not in rows_of(path)[0]


def test_in_a_pipe_a_row_is_one_line_in_full() -> None:
    text = "two\nlines\tand " + "long " * 200
    path = write_rollouts(response_text=[text, "שלום"])
    lines = show(path, "--columns", "sample_id,response_text").splitlines()
    assert lines[0] == "sample_id\tresponse_text"
    assert lines[1] == "a\ttwo\\nlines\\tand " + "long " * 200
    assert lines[2] == "b\tשלום"
    assert rows_of(path)[0]["response_text"] == text


def test_on_a_terminal_a_table_is_drawn_with_wide_text_in_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    path = write_rollouts(response_text=["赫尔辛基", "plain"])
    lines = [line for line in show(path, "--columns", "sample_id,response_text").splitlines() if set("│─┃") & set(line)]
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    widths = {sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in line) for line in plain}
    assert len(lines) >= 4 and len(widths) == 1


def test_json_lets_no_control_character_stand() -> None:
    path = write_rollouts(response_text=["\x9b31m\x7f\x1b", "b"])
    printed = show(path, "--json")
    assert not set("\x9b\x7f\x1b") & set(printed)
    assert json.loads(printed.splitlines()[0])["response_text"] == "\x9b31m\x7f\x1b"


@pytest.mark.skipif(sys.platform == "win32", reason="no head")
def test_a_pipe_that_closes_early_is_no_error() -> None:
    path = write_rollouts(**{
        name: values * 3000
        for name, values in {"prompt_id": ["p", "q"], "sample_index": [0, 0], "prompt_text": ["x", "y"]}.items()
    }, **{
        "sample_id": [str(n) for n in range(6000)], "response_text": ["one", "two"] * 3000,
        "prompt_ids": [[1]] * 6000, "response_ids": [[1]] * 6000, "rollout_logprobs": [[-1.0]] * 6000,
        "kept_mass": [[1.0]] * 6000, "finish_reason": ["stop"] * 6000,
    })  # fmt: skip
    command = f"'{sys.executable}' -m ppo_pipeline.cli.main show {path} --json | head -n 1"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True)
    assert json.loads(done.stdout)["sample_id"] == "0"
    assert done.stderr == ""


def test_nearest_sample_is_suggested() -> None:
    path = write_rollouts(sample_id=["r001-sum-41-0", "r001-rep-13-0"])
    assert "Did you mean 'r001-sum-41-0'?" in show(path, "--sample", "r001-sum-41", code=1)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["rounds", "--help"], ["show", "--help"], ["diff", "--help"], ["status", "--help"]]
)
def test_light_commands_import_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom ppo_pipeline.cli.main import main\n"
        f"main({arguments!r}, standalone_mode=False)\n"
        "heavy = {'torch', 'transformers'} & set(sys.modules)\nsys.exit(str(heavy) if heavy else 0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}  # this tree, not one that is installed
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_prompts_own_columns_are_shown_filtered_and_grouped_by() -> None:
    path = write_rollouts()
    write_rewards(["a", "b"], rule=[0.5, -0.25])
    prompts = {"topic": ["sums", "words"], "level": [1, 2], "score": [7, 8], "Tokens": ["x", "y"]}
    write_prompts("what is 1?", "what is 2?", **prompts)
    first, second = rows_of(path)
    assert (first["topic"], first["level"], second["topic"]) == ("sums", 1, "words")
    assert (first["score"], first["prompt.score"], first["prompt.Tokens"]) == (0.5, 7, "x"), "their own come first"
    assert [row["sample_id"] for row in rows_of(path, "--where", "topic = 'words' and level > 1")] == ["b"]
    assert show(path, "--columns", "topic,score").splitlines()[0] == "topic\tscore"
    assert show("prompts").splitlines()[0] == "prompt_id\tsplit\tmessages\ttopic\tlevel\tscore\tTokens"
    assert [*rows_of("prompts")[0]] == ["prompt_id", "messages", "split", *prompts], "each of them once"
    write_prompts("what is 1?", topic=["sums"])
    assert [row["topic"] for row in rows_of(path)] == ["sums", None], "the other prompt is there no more"


def test_means_by_a_column() -> None:
    ids = ["p", "q", "r", "s"]
    turns = [{"role": "user", "content": "hi"}]
    topics = {"topic": ["words", "sums", "sums", None], "tags": [["x"]] * 4}
    table = {"prompt_id": ids, "messages": pa.array([turns] * 4), "split": ["heldout"] * 4, **topics}
    PROMPTS.write(pa.table(table), Path("data/prompts.parquet"))
    rows = {
        "prompt_id": ids, "prompt_text": ["hi"] * 4, "response_text": ["a"] * 4, "finish_reason": ["stop"] * 4,
        "response_ids": [[1], [1, 2], [1] * 4, [1]], "score": [1.0, 0.5, 0.0, 4.0],
        "correct": [True, True, False, False],
    }  # fmt: skip
    EVALUATION.write(pa.table(rows), FOLDER / "eval.parquet")
    found = rows_of("r001", "eval", "--by", "topic")
    assert [(row["topic"], row["rows"], row["score"], row["correct"], row["tokens"]) for row in found] == [
        ("sums", 2, 0.25, 0.5, 3.0), ("words", 1, 1.0, 1.0, 1.0), (None, 1, 4.0, 0.0, 1.0),
    ]  # fmt: skip
    best = rows_of(
        "r001", "eval", "--by", "topic", "--sort", "-score", "--where", "topic is not null", "--columns", "topic"
    )
    assert best == [{"topic": "words"}, {"topic": "sums"}]
    assert len(rows_of("r001", "eval", "--by", "topic,correct")) == 4
    assert show("r001", "eval", "--by", "topic").splitlines()[1].split("\t")[:2] == ["sums", "2"]
    assert "no column 'topik'. Did you mean 'topic'?" in show("r001", "eval", "--by", "topik", code=1)
    assert "column 'tags' holds a list in each row" in show("r001", "eval", "--by", "tags", code=1)
