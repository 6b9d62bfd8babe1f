"""The queries of docs/inspect.md run on a small project, and say what the stages' metrics say."""

import re
from contextlib import chdir, redirect_stdout
from io import StringIO
from typing import Any

import pytest
from stage_runs import REPOSITORY, Stages

duckdb = pytest.importorskip("duckdb")
pytest.importorskip("pandas")
TEXT = (REPOSITORY / "docs/inspect.md").read_text(encoding="utf-8").replace("r020", "r002").replace("r010", "r001")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    made = Stages(tmp_path_factory.mktemp("project"), lambda params: None)
    for stage in ("init", "baseline"):
        made.run(stage)
    for name in ("r001", "r002"):
        made.round(name)
    return made


@pytest.fixture(scope="module")
def answers(stages: Stages) -> list[list[dict[str, Any]]]:
    """The rows that each query gives, in the order of the page."""
    found = []
    with chdir(stages.folder), duckdb.connect() as connection:
        for query in blocks("sql"):
            cursor = connection.execute(query)
            names = [column[0] for column in cursor.description]
            found.append([dict(zip(names, row, strict=True)) for row in cursor.fetchall()])
    return found


def test_every_query_gives_rows(answers: list[list[dict[str, Any]]]) -> None:
    assert len(answers) == 11
    for query, rows in zip(blocks("sql"), answers, strict=True):
        assert rows or query.startswith("CREATE"), query


def test_means_by_round_are_the_stages_metrics(stages: Stages, answers: list[list[dict[str, Any]]]) -> None:
    names = {"score": "objective/scores", "kl": "objective/kl", "tokens": "val/response_length"}
    assert [row["round"] for row in answers[1]] == ["r001", "r002"]
    for row in answers[1]:
        metrics = stages.metrics(row["round"])
        assert row["samples"] == 8
        for column, metric in names.items():
            assert row[column] == pytest.approx(metrics[metric], abs=1e-5)
    assert {row["round"]: row["score"] for row in answers[8]} == {
        name: pytest.approx(stages.metrics(name)["eval/scores"]) for name in ("r000", "r001", "r002")
    }


def test_a_row_per_token_keeps_the_lists_in_step(stages: Stages, answers: list[list[dict[str, Any]]]) -> None:
    scores = dict(zip(*(stages.column("r002/rewards.parquet", n) for n in ("sample_id", "score")), strict=True))
    worst = min(scores, key=lambda sample: (scores[sample], sample))
    place = stages.column("r002/rollouts.parquet", "sample_id").index(worst)
    for column, path in (("token", "rollouts/response_ids"), ("advantage", "advantages/advantages"),
                         ("reward", "advantages/token_rewards"), ("logprob", "reference/policy_logprobs")):  # fmt: skip
        table, name = path.split("/")
        wanted = stages.column(f"r002/{table}.parquet", name)[place]
        assert [row[column] for row in answers[4]] == wanted
    tokens = sum(map(len, stages.column("r002/rollouts.parquet", "response_ids")))
    assert sum(row["tokens"] for row in answers[5]) == tokens


def test_the_python_says_the_same(stages: Stages, answers: list[list[dict[str, Any]]]) -> None:
    names: dict[str, Any] = {}
    said = []
    with chdir(stages.folder):
        for block in blocks("python"):
            with redirect_stdout(StringIO()) as out:
                exec(block, names)
            said.append(out.getvalue())
    assert names["samples"].kl.mean() == pytest.approx(answers[1][1]["kl"], abs=1e-6)
    by_position = names["tokens"].groupby("position").kl.mean()
    assert by_position.to_dict() == {row["position"]: pytest.approx(row["kl"], abs=1e-6) for row in answers[5]}
    assert [line.split()[0] for line in said[2].splitlines()] == ["r001", "r002"]
    assert len(eval(said[3])) == len(answers[4])
