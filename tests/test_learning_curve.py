"""The learning curve's rows: one lineage, nothing missing drawn as 0."""

import csv
import json
from pathlib import Path

import pytest

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.learning_curve import HELDOUT, TRAINING, curve_rows, round_metrics, write_curve
from ppo_pipeline.params import load_params

COMMITTED = Path(__file__).resolve().parent.parent / "params.yaml"


def params_with(tmp_path: Path, rounds: str):
    head = COMMITTED.read_text().split("\nrounds:")[0]
    (tmp_path / "params.yaml").write_text(f"{head}\nrounds: {rounds}\n")
    return load_params(tmp_path / "params.yaml")


def test_rows_follow_the_lineage_of_the_last_round(tmp_path: Path) -> None:
    params = params_with(tmp_path, "{r001: {parent: r000}, r002: {parent: r001}, x: {parent: r001}, y: {parent: x}}")
    metrics = {name: {m: float(i) for m in [*TRAINING, *HELDOUT]} for i, name in enumerate(["r000", *params.rounds])}
    rows = curve_rows(params, metrics, HELDOUT, with_root=True)
    assert [(r["round"], r["parent"], r["depth"], r["heldout_score"]) for r in rows] == [
        ("r000", "", 0, 0.0), ("r001", "r000", 1, 1.0), ("x", "r001", 2, 3.0), ("y", "x", 3, 4.0),
    ]  # fmt: skip
    assert [r["round"] for r in curve_rows(params, metrics, TRAINING, with_root=False)] == ["r001", "x", "y"]


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
    with pytest.raises(PipelineError, match=r"a\.json: not valid JSON"):
        round_metrics(tmp_path, "r001")
