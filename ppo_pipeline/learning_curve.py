"""The learning curve: one row per round, from the metrics that the stages wrote.

A round's training numbers are of the policy that sampled in it, its parent's; its held-out ones of its own.
"""

import csv
from pathlib import Path
from typing import Any

from .errors import PipelineError
from .files import read_json, whole_file
from .params import ROOT, Params

TRAINING = {
    "objective/scores": "train_score",
    "objective/kl": "kl",
    "objective/entropy": "entropy",
    "val/response_length": "response_length",
    "loss/policy": "policy_loss",
    "loss/value": "value_loss",
    "policy/clipfrac": "clip_fraction",
    "policy/approxkl": "approx_kl",
    "policy/grad_norm": "grad_norm",
    "val/explained_variance": "explained_variance",
}
OF_CRITIC = ("loss/value", "val/explained_variance")
HELDOUT = {
    "eval/scores": "heldout_score",
    "eval/response_length": "heldout_response_length",
    "eval/finished": "heldout_finished",
}


def round_metrics(folder: Path, name: str) -> dict[str, Any]:
    """Return all metrics of a round: those of its stages in `folder`/<round>/, merged and sorted by name."""
    stages: dict[str, dict[str, Any]] = {}
    for path in sorted((folder / name).glob("*.json")):
        stages[path.stem] = read_json(path)
    return merged(stages)


def merged(stages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the metrics of several stages as one map, sorted by name; of two that agree in name, the later stage's."""
    numbers: dict[str, Any] = {}
    for _, metrics in sorted(stages.items()):
        numbers |= metrics
    return dict(sorted(numbers.items()))


def sealed_metrics(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """Return a sealed round's metrics, {stage: {metric: number}}, from `folder`/<round>.json."""
    path = folder / f"{name}.json"
    if not path.is_file():
        raise PipelineError(f"{path}: no such file, though {name} is sealed; git has it.")
    found = read_json(path, "git has an earlier one")
    if not all(isinstance(metrics, dict) for metrics in found.values()):
        raise PipelineError(f"{path}: damaged, a stage's metrics are no JSON object; git has an earlier one.")
    return found


def curve_rows(
    params: Params, metrics: dict[str, dict[str, Any]], columns: dict[str, str], with_root: bool
) -> list[dict[str, Any]]:
    """Return a row per round on the way to the last round: round, parent, depth, and `columns`.

    One lineage only, since a line through branches would run back and forth; `dvc metrics show` has all rounds.
    `with_root` starts with the untrained policy. A round that lacks one of the metrics has no row: plots would
    draw a missing number as 0. A round that trained no values still has one, where the critic's columns are empty.
    """
    rows = []
    for name in [ROOT] * with_root + params.lineage(params.last_round):
        if all(metric in metrics[name] for metric in columns if metric not in OF_CRITIC):
            parent = "" if name == ROOT else params.all_rounds[name].parent
            row: dict[str, Any] = {"round": name, "parent": parent, "depth": params.depth(name)}
            rows.append(row | {column: metrics[name].get(metric, "") for metric, column in columns.items()})
    return rows


def write_curve(path: Path, rows: list[dict[str, Any]], columns: dict[str, str]) -> None:
    """Write the rows as CSV, whole or not at all."""
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=["round", "parent", "depth", *columns.values()])
        writer.writeheader()
        writer.writerows(rows)
