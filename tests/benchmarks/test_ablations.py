"""The table of benchmarks.ablations, from curves written by hand, and the committed variants."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from benchmarks import sums
from benchmarks.ablations import curve_file, curves_of, markdown, read_curve, summary
from benchmarks.measuring import ROOT
from benchmarks.projects import change
from ppo_pipeline.settings.params import load_params

VARIANTS: dict[tuple[str, str], dict[str, Any]] = {
    (file, name): changes
    for file in ("ablations", "sums")
    for name, changes in YAML(typ="safe").load(ROOT / f"benchmarks/{file}.yaml").items()
}


def curve(*scores: float | None, seconds: float = 1.0) -> list[dict[str, Any]]:
    """Return rounds from r000 on; None: not evaluated. The first two take long, as they start libraries."""
    return [
        {"round": f"r{depth:03d}", "seconds": seconds if depth > 1 else 99.0}
        | ({} if score is None else {"eval/scores": score})
        for depth, score in enumerate(scores)
    ]


def written(out: Path, **curves: list[dict[str, Any]]) -> None:
    for name, rounds in curves.items():
        variant, _, seed = name.rpartition("_")
        curve_file(out, variant.replace("_", "-"), int(seed)).write_text(json.dumps(rounds))


def test_a_summary_is_the_middle_lowest_and_highest_of_the_seeds_ends() -> None:
    ends = [curve(0.0, 1.0, None, 2.0, 3.0), curve(9.0, 5.0, None, None, 7.0, 6.0), curve(0.5)]  # 2, 6, 0.5
    assert summary(ends, "eval/scores") == (2.0, 0.5, 6.0)
    assert summary(ends, "eval/scores", last=1) == (3.0, 0.5, 6.0)
    assert summary([*ends, []], "eval/scores") == (2.0, 0.5, 6.0)  # a run that has not begun
    assert all(math.isnan(value) for value in summary(ends, "eval/correct"))


def test_the_table_has_a_row_for_each_variant_with_its_own_seeds_alone(tmp_path: Path) -> None:
    written(
        tmp_path, lr_0=curve(0.0, 1.0, 2.0, 3.0, seconds=4.0), lr_1=curve(0.0, 2.0, 3.0, 4.0, seconds=6.0),
        lr_low_0=curve(0.0, -0.5, seconds=2.0),
    )  # fmt: skip
    head, rule, *rows = markdown(tmp_path, ["lr", "lr-low", "none"]).splitlines()
    assert head == "| variant | seeds | score | correct | KL | approxkl | tokens | s a round |"
    assert {line.count("|") for line in (head, rule, *rows)} == {9}
    nothing = "nan (nan to nan)"
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells[0] == ["lr", "2", "2.500 (2.000 to 3.000)", *[nothing] * 4, "5.0"]
    assert cells[1] == ["lr-low", "1", "-0.250 (-0.250 to -0.250)", *[nothing] * 4, ""]
    assert cells[2] == ["none", "0", *[nothing] * 5, ""]


def test_a_run_that_has_not_begun_has_no_rounds(tmp_path: Path) -> None:
    assert read_curve(curve_file(tmp_path, "a", 0)) == [] == curves_of(tmp_path, "a")


@pytest.mark.parametrize("name", VARIANTS, ids=lambda name: "-".join(name))
def test_each_committed_variant_is_settings_that_go_together(name: tuple[str, str], tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    change(tmp_path, VARIANTS[name])
    load_params(tmp_path / "params.yaml")


def test_the_sums_are_right_and_no_held_out_pair_of_numbers_is_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sums, "TARGET", tmp_path / "sums.jsonl")
    sums.main.main([str(tmp_path / "params.yaml")], standalone_mode=False)
    load_params(tmp_path / "params.yaml")
    pairs: dict[str, set[tuple[str, ...]]] = {"train": set(), "heldout": set()}
    for row in map(json.loads, sums.TARGET.read_text().splitlines()):
        a, sign, b, _ = row["prompt"].splitlines()[-1].split()
        x, y = int(a), int(b)
        assert int(row["expected"]) == {"+": x + y, "x": x * y, "-": x - y}[sign]
        pairs[row["split"]].add((sign, a, b) if sign == "-" else (sign, *sorted((a, b))))
    assert {name: len(found) for name, found in pairs.items()} == {"train": 306, "heldout": 205}
    assert not pairs["train"] & pairs["heldout"]
