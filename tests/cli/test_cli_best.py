"""`ppo-pipeline best`, and `best` in place of a round, on small rounds that were written by hand."""

import json
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from ppo_pipeline.cli.main import main
from ppo_pipeline.cli.round_named import round_named
from ppo_pipeline.errors import PipelineError
from ppo_pipeline.settings.params import load_params
from ppo_pipeline.tables.evaluation import EVALUATION, EVALUATION_SAMPLES

COMMITTED = Path(__file__).resolve().parents[2] / "params.yaml"
ROUNDS = "\nrounds:\n  r001: {parent: r000}\n  r002: {parent: r001}\n  b: {parent: r001}\n"
SCORES = {
    "r000": [0.0, 0.0, 0.0, 0.0], "r001": [1.0, 2.0, 1.0, 2.0], "r002": [1.0, 2.0, 2.0, 2.5], "b": [2.0, 1.0, 3.0, 1.0],
}  # fmt: skip


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    head = COMMITTED.read_text(encoding="utf-8").split("\nrounds:")[0]
    Path("params.yaml").write_text(head + ROUNDS, encoding="utf-8")
    for name, scores in SCORES.items():
        write_round(name, scores)


def write_round(name: str, scores: list[float], **metrics: float) -> None:
    numbers = {"eval/scores": float(np.mean(scores)), "eval/scores_se": spread(scores), "eval/correct": 0.25, **metrics}
    Path("metrics/stages", name).mkdir(parents=True, exist_ok=True)
    Path("metrics/stages", name, "evaluate.json").write_text(json.dumps(numbers))
    ids = [f"p{n}" for n in range(len(scores))]
    rows = {
        "prompt_id": ids, "prompt_text": [f"{i}?" for i in ids], "response_text": ["x"] * len(ids),
        "response_ids": pa.array([[1]] * len(ids), pa.list_(pa.int32())), "finish_reason": ["stop"] * len(ids),
        "score": scores, "correct": [score > 2 for score in scores],
    }  # fmt: skip
    EVALUATION.write(pa.table(rows), Path("data/rounds", name, "eval.parquet"))


def spread(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))


def best(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["best", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def document(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(main, ["best", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_each_round_stands_behind_the_best_with_the_error_of_the_prompts_differences() -> None:
    found = document()
    assert (found["by"], found["best"]) == ("eval/scores", "r002")
    rounds = {entry["round"]: entry for entry in found["rounds"]}
    assert [*rounds] == ["r002", "b", "r001", "r000"]
    for name, entry in rounds.items():
        differences = [x - y for x, y in zip(SCORES["r002"], SCORES[name], strict=True)]
        assert entry["behind"] == pytest.approx(sum(differences) / 4)
        assert entry["behind_error"] == pytest.approx(spread(differences))
        assert (entry["value"], entry["prompts"]) == (np.mean(SCORES[name]), 4)
        assert entry["error"] == pytest.approx(spread(SCORES[name]))
    assert {name: entry["close"] for name, entry in rounds.items()} == {
        "r002": True, "b": True, "r001": False, "r000": False,
    }  # fmt: skip
    # b: 0.125 behind with an error of 0.6575: 4 (2 * 0.6575 / 0.125)^2 prompts would make that two errors.
    assert rounds["b"]["prompts_needed"] == 443
    said = " ".join(found["remarks"])
    for text in (
        "r002: eval/scores +1.875 (+- 0.315, 4 prompts)", "+1.875 (+- 0.315) over the untrained policy r000",
        "not told from b, within one standard error: too few held-out prompts; about 443 would tell b",
        "hardly told from r001, within two: too few held-out prompts; about 7 would tell r001",
        "the best of 4 on the very prompts that chose it",
    ):  # fmt: skip
        assert text in said
    lines = [line.split("\t") for line in best().splitlines()[1:5]]
    assert [line[-1] for line in lines] == ["", "no", "hardly", "yes"]


def test_of_equal_rounds_the_one_with_fewer_rounds_behind_it_is_best() -> None:
    write_round("b", SCORES["r002"])
    write_round("r001", SCORES["r002"])
    found = document()
    assert [entry["round"] for entry in found["rounds"]] == ["r001", "r002", "b", "r000"]
    assert found["rounds"][1]["prompts_needed"] is None


def test_without_a_round_s_table_its_error_is_that_of_two_independent_numbers() -> None:
    Path("data/rounds/b/eval.parquet").unlink()
    entry = document()["rounds"][1]
    assert (entry["round"], entry["prompts"], entry["prompts_needed"]) == ("b", 0, None)
    assert entry["behind_error"] == pytest.approx(sqrt(spread(SCORES["r002"]) ** 2 + spread(SCORES["b"]) ** 2))


def test_only_prompts_that_both_saw_alike_are_compared() -> None:
    path = Path("data/rounds/b/eval.parquet")
    table = EVALUATION.read(path)
    EVALUATION.write(table.set_column(1, "prompt_text", pa.array(["p0?", "other", "p2?", "p3?"])), path)
    differences = [x - y for x, y in zip(SCORES["r002"], SCORES["b"], strict=True) if (x, y) != (2.0, 1.0)]
    entry = document()["rounds"][1]
    assert (entry["round"], entry["prompts"]) == ("b", 3)
    assert entry["behind"] == pytest.approx(sum(differences) / 3)


def test_by_another_metric_of_greedy_or_sampled_answers() -> None:
    write_round("b", SCORES["b"], **{"eval/correct": 0.5, "eval/pass@2": 0.75})
    rows = {
        "sample_id": [f"s{n}" for n in range(8)], "prompt_id": [f"p{n // 2}" for n in range(8)],
        "sample_index": [0, 1] * 4, "prompt_text": ["?"] * 8, "response_text": ["x"] * 8,
        "response_ids": pa.array([[1]] * 8, pa.list_(pa.int32())), "finish_reason": ["stop"] * 8, "vote": ["x"] * 8,
        "score": [0.0] * 8, "correct": [True, False] * 3 + [False, False],
    }  # fmt: skip
    EVALUATION_SAMPLES.write(pa.table(rows), Path("data/rounds/b/eval_samples.parquet"))
    assert document("--by", "correct")["best"] == document("--by", "eval/correct")["best"] == "b"
    [entry] = document("--by", "pass@2")["rounds"]
    assert (entry["round"], entry["value"]) == ("b", 0.75)
    assert entry["error"] == pytest.approx(spread([1, 1, 1, 0]))
    assert "no round has the metric eval/corect. Did you mean 'correct'?" in best("--by", "corect", code=1)


def test_a_best_round_on_a_branch_is_said_to_be_on_one() -> None:
    write_round("b", [3.0, 3.0, 3.0, 3.0])
    said = "b is on the branch b from r001, not on the main line, r001 to r002"
    assert said in document()["remarks"]
    Path("params.yaml").write_text(
        Path("params.yaml").read_text().replace("r001}\n  b: {", "r001}\n  b: {main: true, ")
    )
    assert load_params().last_round == "b" and not any("branch" in remark for remark in document()["remarks"])


def test_a_command_takes_best_for_a_round() -> None:
    assert round_named(load_params(), "best") == "r002"
    assert round_named(load_params(), "best:correct") == "r000", "of equal ones the first"
    assert round_named(load_params(), "r001") == "r001"
    with pytest.raises(PipelineError, match="no round has the metric eval/x"):
        round_named(load_params(), "best:x")
    show = CliRunner().invoke(main, ["show", "best", "eval", "--json"])
    assert [json.loads(line)["score"] for line in show.stdout.splitlines()] == SCORES["r002"]
    diff = CliRunner().invoke(main, ["diff", "r000", "best", "--part", "answers", "--json"])
    found = json.loads(diff.stdout)
    assert (found["b"], found["heldout"]["prompts"], found["heldout"]["change"]) == ("r002", 4, 1.875)
    assert found["heldout"]["change_se"] == pytest.approx(spread(SCORES["r002"]))
    branch = CliRunner().invoke(main, ["rounds", "branch", "best", "--name", "c"])
    assert "added c, starting from r002" in branch.output
    for command in (["export", "--round", "best", "out"], ["chat", "--round", "best", "--prompt", "x"]):
        result = CliRunner().invoke(main, command)
        assert "data/rounds/r002/policy: not here" in result.output, result.output


def test_a_round_that_is_called_best_is_itself() -> None:
    path = Path("params.yaml")
    path.write_text(path.read_text() + "  best: {parent: r001}\n")
    assert round_named(load_params(), "best") == "best"


def test_without_an_evaluated_round_it_says_what_to_do() -> None:
    for path in Path("metrics/stages").glob("*/*.json"):
        path.unlink()
    assert "no round is evaluated yet; `dvc repro` does it" in best(code=1)
