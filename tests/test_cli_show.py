"""`ppo-pipeline show` where data is awkward: odd text, odd names, stale or missing neighbours."""

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from conftest import tiny_tokenizer

from ppo_pipeline.cli.main import main
from ppo_pipeline.tables.advantages import ADVANTAGES
from ppo_pipeline.tables.evaluation import EVALUATION
from ppo_pipeline.tables.prompts import PROMPTS
from ppo_pipeline.tables.reference import REFERENCE
from ppo_pipeline.tables.rewards import REWARDS
from ppo_pipeline.tables.rollouts import ROLLOUTS

REPOSITORY = Path(__file__).resolve().parent.parent
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
    REWARDS.write(pa.table({"sample_id": ids, "score": [0.5, -0.25], **components}), FOLDER / "rewards.parquet")


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
        "finish_reason": ["stop"], "score": [1.5], "tokens": [0.25],
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
    columns = {k: pa.array(v, ROLLOUTS.schema.field(k).type) for k, v in empty.items()}
    path = write_rollouts(**columns)
    kind = REFERENCE.schema.field("values").type
    lists = {n: pa.array([[], [-3.0]], kind) for n in ("policy_logprobs", "values", "entropy")}
    rows = {"sample_id": ["a", "b"], **lists, "reference_logprobs": pa.array([[], [-2.0]], kind)}
    REFERENCE.write(pa.table({**rows, "bootstrap_value": [0.0, 0.0]}), FOLDER / "reference.parquet")
    assert [row["kl"] for row in rows_of(path)] == [0.0, -1.0]


@pytest.mark.parametrize("contract", [ROLLOUTS, REWARDS, REFERENCE, ADVANTAGES, EVALUATION, PROMPTS])
def test_a_table_without_rows(contract: Any) -> None:
    path = FOLDER / "table.parquet"
    contract.write(contract.schema.empty_table(), path)
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
    names = ["token", "logprob", "kl", "value"]
    for table in ("rollouts", "reference"):
        lines = show(str(FOLDER / f"{table}.parquet"), "--sample", "a").splitlines()
        header = next(line for line in lines if "logprob" in line)
        assert [word for word in header.split() if word.isalpha()] == names
        assert [line for line in lines if "+0.5000" in line and "-1.0000" in line and "+0.1000" in line]
    first = tiny_tokenizer().decode([65])
    assert any(line.split()[1] == first for line in lines if "+0.5000" in line)
    (FOLDER / "rollouts.parquet").unlink()
    assert "-2.2500" in show(str(FOLDER / "reference.parquet"), "--sample", "a")


def test_nearest_sample_is_suggested() -> None:
    path = write_rollouts(sample_id=["r001-sum-41-0", "r001-rep-13-0"])
    assert "Did you mean 'r001-sum-41-0'?" in show(path, "--sample", "r001-sum-41", code=1)


@pytest.mark.parametrize("arguments", [["--help"], ["rounds", "--help"], ["show", "--help"]])
def test_light_commands_import_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom ppo_pipeline.cli.main import main\n"
        f"main({arguments!r}, standalone_mode=False)\n"
        "heavy = {'torch', 'transformers'} & set(sys.modules)\nsys.exit(str(heavy) if heavy else 0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}  # this tree, not one that is installed
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
