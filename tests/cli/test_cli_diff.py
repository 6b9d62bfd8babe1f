"""`ppo-pipeline diff` on two small rounds that were written by hand."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from ppo_pipeline.cli.main import main
from ppo_pipeline.project.plan.as_run import DERIVED
from ppo_pipeline.settings.files import settings_texts
from ppo_pipeline.settings.params import load_params
from ppo_pipeline.settings.sections import Section
from ppo_pipeline.settings.stage_settings import ROUND_STAGES
from ppo_pipeline.tables.evaluation import EVALUATION
from ppo_pipeline.tables.rewards import REWARDS
from ppo_pipeline.tables.rollouts import ROLLOUTS

COMMITTED = Path(__file__).resolve().parents[2] / "params.yaml"
ROUNDS = "\nrounds:\n  r001: {parent: r000}\n  r002: {parent: r001}\n  b: {parent: r001, advantage: {kl_coef: 0.2}}\n"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    head = COMMITTED.read_text(encoding="utf-8").split("\nrounds:")[0]
    Path("params.yaml").write_text(head + ROUNDS, encoding="utf-8")
    entries: dict[str, list[str]] = {}
    for name, stage, text in settings_texts(load_params()):
        path = Path("data/settings", name, f"{stage}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        key = "baseline" if name == "r000" else f"{stage}@{name}"
        entries[key] = [
            f"    - path: {path}",
            "      hash: md5",
            f"      md5: {hashlib.md5(text.encode()).hexdigest()}",
        ]
    lines = [line for key, deps in entries.items() for line in (f"  {key}:", "    cmd: x", "    deps:", *deps)]
    Path("dvc.lock").write_text("\n".join(["schema: '2.0'", "stages:", *lines]) + "\n", encoding="utf-8")
    write_metrics("r002", evaluate={"eval/scores": 0.5}, reward={"objective/scores": 1.0, "of_one": 3})
    write_metrics("b", evaluate={"eval/scores": 0.125}, reward={"objective/scores": 1.0})
    write_eval("r002", p=("yes", 1.0), q=("[red]\x1b[31m", 0.5), r=("no", -1.0), x=("only here", 0.0))
    write_eval("b", r=("你好", -0.75), q=("maybe", -1.5), p=("yes", 1.0), y=("only there", 0.0))


def write_metrics(name: str, **stages: dict[str, float]) -> None:
    folder = Path("metrics/stages", name)
    folder.mkdir(parents=True)
    for stage, metrics in stages.items():
        (folder / f"{stage}.json").write_text(json.dumps(metrics), encoding="utf-8")


def write_eval(name: str, **answers: tuple[str, float]) -> None:
    rows = {
        "prompt_id": list(answers), "prompt_text": [f"ask {key}" for key in answers],
        "response_text": [text for text, _ in answers.values()], "response_ids": [[1] * n for n in range(len(answers))],
        "finish_reason": ["stop"] * len(answers), "score": [score for _, score in answers.values()],
        "correct": [score > 0.5 for _, score in answers.values()],
    }  # fmt: skip
    kinds = {"response_ids": pa.list_(pa.int32())}
    table = pa.table({key: pa.array(value, kinds.get(key)) for key, value in rows.items()})
    EVALUATION.write(table, Path("data/rounds", name, "eval.parquet"))


def write_samples(name: str, prompts: list[str], scores: list[float]) -> None:
    ids = [f"{name}-{prompt}-0" for prompt in prompts]
    count = len(ids)
    ROLLOUTS.write(
        pa.table({
            "sample_id": ids, "prompt_id": prompts, "sample_index": [0] * count, "prompt_text": prompts,
            "response_text": [f"{name} on {prompt}" for prompt in prompts], "prompt_ids": [[1]] * count,
            "response_ids": [[2]] * count, "rollout_logprobs": [[-1.0]] * count, "kept_mass": [[1.0]] * count,
            "finish_reason": ["stop"] * count,
        }),
        Path("data/rounds", name, "rollouts.parquet"),
    )  # fmt: skip
    REWARDS.write(
        pa.table({"sample_id": ids, "score": scores, "correct": pa.nulls(len(ids), pa.bool_())}),
        Path("data/rounds", name, "rewards.parquet"),
    )


def diff(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["diff", *arguments])
    assert result.exit_code == code, result.output
    assert code == 0 or isinstance(result.exception, SystemExit), "a traceback instead of a message"
    return result.stdout if code == 0 else result.output


def diff_notes(*arguments: str) -> str:
    return CliRunner().invoke(main, ["diff", *arguments]).stderr


def document(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(diff(*arguments, "--json"))
    return found


def test_settings_are_those_that_the_rounds_ran_with() -> None:
    wanted = {"advantage.kl_coef": {"a": "0.05", "b": "0.2"}}
    assert document("r002", "b")["settings"] == wanted
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(re.sub(r"(?m)^  kl_coef: .*$", "  kl_coef: 0.3", text), encoding="utf-8")
    assert document("r002", "b")["settings"] == wanted
    Path("data/settings/b/update.json").write_text("{}", encoding="utf-8")  # not what b ran with, and no cache here
    assert document("r002", "b")["settings"] is None


def test_relation_names_the_last_common_round_and_what_the_others_set() -> None:
    assert document("r002", "b")["relation"] == "last common round: r001 (r002 +1, b +1); b: advantage.kl_coef=0.2"


def test_metrics_with_their_difference() -> None:
    assert document("r002", "b")["metrics"] == {
        "eval/scores": {"a": 0.5, "b": 0.125, "change": -0.375},
        "objective/scores": {"a": 1.0, "b": 1.0, "change": 0.0},
        "of_one": {"a": 3, "b": None, "change": None},
    }
    assert "eval/scores\t0.5\t0.125\t-0.375\n" in diff("r002", "b", "--part", "metrics")


def test_answers_of_the_same_prompt_with_the_largest_change_first() -> None:
    found = document("r002", "b")
    assert [(row["prompt_id"], row["score_a"], row["score_b"], row["change"]) for row in found["answers"]] == [
        ("q", 0.5, -1.5, -2.0), ("r", -1.0, -0.75, 0.25), ("p", 1.0, 1.0, 0.0),
    ]  # fmt: skip
    assert found["answers"][1]["response_a"] == "no" and found["answers"][1]["response_b"] == "你好"
    assert (found["answers"][0]["tokens_a"], found["answers"][0]["tokens_b"]) == (1, 1)
    assert found["samples"] is None, "neither round has rollouts here"


def test_where_sort_limit_and_part() -> None:
    def ids(*arguments: str) -> list[str]:
        return [row["prompt_id"] for row in document("r002", "b", "--part", "answers", *arguments)["answers"]]

    assert ids("--where", "change > 0 or score_a = 1") == ["r", "p"]
    assert ids("--sort", "-score_a") == ["p", "q", "r"]
    assert ids("--sort", "score_b", "--limit", "1") == ["q"]
    assert set(document("r002", "b", "--part", "answers")) == {"a", "b", "relation", "answers", "heldout"}
    changes = [0.0, -2.0, 0.25]  # of all answers to the same prompts, whichever are shown
    found = document("r002", "b", "--part", "answers", "--where", "change > 0")["heldout"]
    assert found == pytest.approx({"prompts": 3, "change": np.mean(changes), "change_se": np.std(changes) / np.sqrt(2)})
    assert "mean change over 3 prompts: -0.583 (+- 0.712)" in diff_notes("r002", "b")
    assert "Did you mean 'score_a'" in diff("r002", "b", "--where", "scorea > 1", code=1)
    assert "no column 'scor_b'" in diff("r002", "b", "--sort", "scor_b", code=1)


def test_a_prompt_that_reads_otherwise_is_left_out() -> None:
    write_samples("r002", ["p", "q"], [1.0, 2.0])
    write_samples("b", ["z", "q"], [1.0, 4.0])
    assert [row["response_b"] for row in document("r002", "b")["samples"]] == ["b on q"]
    rows = ROLLOUTS.read(Path("data/rounds/b/rollouts.parquet"))
    place = rows.column_names.index("prompt_text")
    other = rows.set_column(place, "prompt_text", pa.array(["z", "another q"]))
    ROLLOUTS.write(other, Path("data/rounds/b/rollouts.parquet"))
    assert document("r002", "b")["samples"] == []
    result = CliRunner().invoke(main, ["diff", "r002", "b", "--part", "samples"])
    assert "0 of 0 prompts that both have; 1 left out" in result.stderr


def test_a_pipe_gets_lines_of_tabs_and_no_escape_sequence() -> None:
    lines = diff("r002", "b", "--part", "answers").splitlines()
    assert lines[1:4] == [
        "# answers to held-out prompts",
        "prompt\tresponse_a\tresponse_b\tscore_a\tscore_b\tchange",
        "ask q\t[red]\\x1b[31m\tmaybe\t+0.500\t-1.500\t-2.000",
    ]


def test_rounds_that_are_not_there_are_named() -> None:
    assert "no round 'r02'. Did you mean 'r002'?" in diff("r02", "b", code=1)
    assert "`dvc repro evaluate@r001` makes it" in diff("r001", "b", code=1)


def test_what_a_stage_is_given_twice_is_compared_once() -> None:
    """A stage's own settings that stand in a section too are left out; the others are no section's of a round."""
    given = {
        name
        for cls in ROUND_STAGES.values()
        for name, field in cls.model_fields.items()
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, Section))
    }
    assert given - set(DERIVED) == {"seed", "start", "chat_template", "date", "special_tokens", "vllm"}
