"""The learning curve's rows: one lineage, nothing missing drawn as 0."""

import csv
import json
from pathlib import Path

import pytest

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.project.learning_curve import (
    CRITIC,
    HELDOUT,
    TRAINING,
    curve_rows,
    end_of_curve,
    refuse_missing,
    round_metrics,
    write_curve,
)
from ppo_pipeline.settings.params import load_params
from ppo_pipeline.settings.stage_settings import ROUND_STAGES

COMMITTED = Path(__file__).resolve().parents[2] / "params.yaml"


def params_with(tmp_path: Path, rounds: str):
    head = COMMITTED.read_text().split("\nrounds:")[0]
    (tmp_path / "params.yaml").write_text(f"{head}\nrounds: {rounds}\n")
    return load_params(tmp_path / "params.yaml")


def test_rows_follow_the_main_line(tmp_path: Path) -> None:
    rounds = "{r001: {parent: r000}, r002: {parent: r001}, x: {parent: r001, main: true}, y: {parent: x}}"
    params = params_with(tmp_path, rounds)
    metrics = {name: {m: float(i) for m in [*TRAINING, *HELDOUT]} for i, name in enumerate(["r000", *params.rounds])}
    rows = curve_rows(params, metrics, HELDOUT, with_root=True)
    assert [(r["round"], r["parent"], r["depth"], r["heldout_score"]) for r in rows] == [
        ("r000", "", 0, 0.0), ("r001", "r000", 1, 1.0), ("x", "r001", 2, 3.0), ("y", "x", 3, 4.0),
    ]  # fmt: skip
    assert [r["round"] for r in curve_rows(params, metrics, TRAINING, with_root=False)] == ["r001", "x", "y"]
    first = params_with(tmp_path, rounds.replace(", main: true", ""))  # the branch came later
    assert [r["round"] for r in curve_rows(first, metrics, TRAINING, with_root=False)] == ["r001", "r002"]


def test_a_round_without_the_numbers_has_no_row(tmp_path: Path) -> None:
    params = params_with(tmp_path, "{r001: {parent: r000}}")
    assert curve_rows(params, {"r000": {}, "r001": {}}, HELDOUT, with_root=True) == []


def test_metrics_of_the_stages_are_merged_and_the_csv_reads_back(tmp_path: Path) -> None:
    (tmp_path / "r001").mkdir()
    for name, numbers in (("a", {"z": 1, "b": 2}), ("b", {"c": 3})):
        (tmp_path / "r001" / f"{name}.json").write_text(json.dumps(numbers))
    assert list(round_metrics(tmp_path, "r001").items()) == [("b", 2), ("c", 3), ("z", 1)]
    assert round_metrics(tmp_path, "r002") == {}
    rows = [{"round": "r001", "parent": "r000", "depth": 1, "c": 3}]
    write_curve(tmp_path / "c.csv", rows, {"x": "c"})
    assert list(csv.DictReader((tmp_path / "c.csv").open())) == [{k: str(v) for k, v in rows[0].items()}]
    (tmp_path / "r001" / "a.json").write_text("{")
    with pytest.raises(PipelineError, match=r"a\.json: damaged \(not valid JSON"):
        round_metrics(tmp_path, "r001")


def test_without_rounds_there_is_the_untrained_policy_alone(tmp_path: Path) -> None:
    params = params_with(tmp_path, "{}")
    metrics = {"r000": dict.fromkeys(HELDOUT, 0.5)}
    assert [r["round"] for r in curve_rows(params, metrics, HELDOUT, with_root=True)] == ["r000"]
    assert curve_rows(params, metrics, HELDOUT, with_root=False) == []


def test_one_missing_number_leaves_out_its_round_and_no_other(tmp_path: Path) -> None:
    params = params_with(tmp_path, "{r001: {parent: r000}, r002: {parent: r001}, r003: {parent: r002}}")
    metrics = {name: dict.fromkeys(HELDOUT, 0.0) for name in ["r000", *params.rounds]}
    del metrics["r002"]["eval/scores"]
    rows = curve_rows(params, metrics, HELDOUT, with_root=True)
    assert [(r["round"], r["depth"]) for r in rows] == [("r000", 0), ("r001", 1), ("r003", 3)]


def test_a_stage_s_later_file_wins_and_other_files_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "r001").mkdir()
    for name, text in (("a.json", '{"x": 1}'), ("b.json", '{"x": 2}'), ("c.txt", "no")):
        (tmp_path / "r001" / name).write_text(text)
    assert round_metrics(tmp_path, "r001") == {"x": 2}


def test_the_csv_is_written_byte_for_byte_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "plots" / "curve.csv"
    row = {"round": "r001", "parent": "r000", "depth": 1, "score": 0.5}
    write_curve(path, [row], {"eval/scores": "score"})
    assert path.read_bytes() == b"round,parent,depth,score\r\nr001,r000,1,0.5\r\n"
    with pytest.raises(ValueError, match="not in fieldnames"):
        write_curve(path, [row, {**row, "more": 1}], {"eval/scores": "score"})
    assert [p.name for p in path.parent.iterdir()] == ["curve.csv"]
    assert path.read_bytes().endswith(b"r001,r000,1,0.5\r\n")
    write_curve(path, [], {"eval/scores": "score"})
    assert path.read_bytes() == b"round,parent,depth,score\r\n"


def test_a_stage_s_metrics_that_were_not_fetched_stop_the_summary(tmp_path: Path) -> None:
    for name, stages in (("r000", ["evaluate"]), ("r001", ROUND_STAGES)):
        (tmp_path / name).mkdir()
        for stage in stages:
            (tmp_path / name / f"{stage}.json").write_text("{}")
        refuse_missing(tmp_path, name)
    (tmp_path / "r001/reward.json").unlink()
    with pytest.raises(PipelineError, match=r"r001/reward\.json: no such file.*dvc repro reward@r001"):
        refuse_missing(tmp_path, "r001")
    (tmp_path / "r000/evaluate.json").unlink()
    with pytest.raises(PipelineError, match="dvc repro baseline"):
        refuse_missing(tmp_path, "r000")


def test_a_round_without_a_critic_is_on_the_curve_all_the_same(tmp_path: Path) -> None:
    params = params_with(tmp_path, "{r001: {parent: r000}, r002: {parent: r001}}")
    metrics = {name: dict.fromkeys(TRAINING, 0.5) for name in params.rounds}
    for name in ("loss/value", "val/explained_variance"):
        del metrics["r002"][name]
    rows = curve_rows(params, metrics, TRAINING, with_root=False)
    assert [(r["round"], r["train_score"], r["value_loss"]) for r in rows] == [("r001", 0.5, 0.5), ("r002", 0.5, "")]
    critic = curve_rows(params, metrics, CRITIC, with_root=False)  # from which the value loss is drawn
    assert [(r["round"], r["value_loss"], r["explained_variance"]) for r in critic] == [("r001", 0.5, 0.5)]


def test_a_round_from_before_there_were_errors_is_on_the_curve_all_the_same(tmp_path: Path) -> None:
    params = params_with(tmp_path, "{r001: {parent: r000}}")
    old = {"eval/scores": 0.5, "eval/response_length": 4.0, "eval/finished": 1.0}
    rows = curve_rows(params, {"r000": old, "r001": dict.fromkeys(HELDOUT, 0.25)}, HELDOUT, with_root=True)
    columns = ("heldout_score", "heldout_score_se", "heldout_correct", "heldout_correct_se")
    assert [[row[column] for column in columns] for row in rows] == [[0.5, "", "", ""], [0.25] * 4]
    assert "heldout_correct" not in end_of_curve([], rows[:1])
    assert end_of_curve([], rows)["heldout_correct"] == 0.25


def test_the_end_of_the_curve_is_the_last_round_with_the_best_and_the_first_score(tmp_path: Path) -> None:
    params = params_with(tmp_path, "{r001: {parent: r000}, r002: {parent: r001}}")
    metrics = {name: dict.fromkeys([*TRAINING, *HELDOUT], float(i)) for i, name in enumerate(["r000", *params.rounds])}
    metrics["r001"]["eval/scores"] = 5.0
    del metrics["r002"]["loss/value"]
    training = curve_rows(params, metrics, TRAINING, with_root=False)
    heldout = curve_rows(params, metrics, HELDOUT, with_root=True)
    assert end_of_curve(training, heldout) == {
        "rounds": 2, "heldout_score": 2.0, "heldout_best": 5.0, "heldout_untrained": 0.0, "heldout_score_se": 2.0,
        "heldout_correct": 2.0, "train_score": 2.0, "kl": 2.0, "entropy": 2.0, "response_length": 2.0,
        "clip_fraction": 2.0,
    }  # fmt: skip
    assert end_of_curve([], []) == {"rounds": 0}
    assert end_of_curve([], heldout[:1]) == {
        "rounds": 0, "heldout_score": 0.0, "heldout_best": 0.0, "heldout_untrained": 0.0, "heldout_score_se": 0.0,
        "heldout_correct": 0.0,
    }  # fmt: skip
