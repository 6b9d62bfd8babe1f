"""The learning curve: one row per round, from the metrics that the stages wrote; and where it stands at its end.

A round's training numbers are of the policy that sampled in it, its parent's; its held-out ones of its own.
"""

import csv
from pathlib import Path
from typing import Any

from ..errors import PipelineError
from ..settings.params import ROOT, Params
from ..settings.stage_settings import ROUND_STAGES
from ..storage.files import atomic_file, read_json

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
CRITIC = {metric: TRAINING[metric] for metric in OF_CRITIC}
HELDOUT = {
    "eval/scores": "heldout_score",
    "eval/scores_se": "heldout_score_se",
    "eval/correct": "heldout_correct",
    "eval/correct_se": "heldout_correct_se",
    "eval/response_length": "heldout_response_length",
    "eval/finished": "heldout_finished",
}
# Not in every round: without values, with one held-out prompt or reward.correct null, or before there were such.
OPTIONAL = (*OF_CRITIC, "eval/scores_se", "eval/correct", "eval/correct_se")

LAST_HELDOUT = ("heldout_score_se", "heldout_correct")
LAST = ("train_score", "kl", "entropy", "response_length", "clip_fraction", "value_loss")


def round_metrics(folder: Path, name: str) -> dict[str, Any]:
    """Return all metrics of a round: those of its stages in `folder`/<round>/, merged and sorted by name."""
    stages: dict[str, dict[str, Any]] = {}
    for path in sorted((folder / name).glob("*.json")):
        stages[path.stem] = read_json(path)
    return merged(stages)


def refuse_missing(folder: Path, name: str) -> None:
    """Raise PipelineError where a stage's metrics of a round are not there, as after `dvc repro --allow-missing`.

    DVC knows each file of `folder`, and not that the curve needs all of them.
    """
    for stage in ("evaluate",) if name == ROOT else ROUND_STAGES:
        path = (folder / name / f"{stage}.json").as_posix()
        if not Path(path).is_file():
            target = "baseline" if name == ROOT else f"{stage}@{name}"
            raise PipelineError(
                f"{path}: no such file, and the learning curve would lose {name}. `dvc pull {path}` fetches it from a "
                f"remote, `dvc repro {target}` makes it; docs/experiments.md has a line for all."
            )


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
    params: Params, metrics: dict[str, dict[str, Any]], columns: dict[str, str], with_root: bool, upto: str = ""
) -> list[dict[str, Any]]:
    """Return a row per round of the main line, or of the way to `upto`: round, parent, depth, and `columns`.

    One line only, since a line through branches would run back and forth; metrics/rounds/ has all rounds.
    `with_root` starts with the untrained policy. A round that lacks one of the metrics has no row: plots would
    draw a missing number as 0. A round that lacks OPTIONAL ones still has one, where their columns are empty, but for
    columns of the critic alone (CRITIC), from which its loss is drawn.
    """
    needed = [metric for metric in columns if metric not in OPTIONAL] or list(columns)
    rows = []
    for name in [ROOT] * with_root + params.lineage(upto or params.last_round):
        if all(metric in metrics[name] for metric in needed):
            parent = "" if name == ROOT else params.all_rounds[name].parent
            row: dict[str, Any] = {"round": name, "parent": parent, "depth": params.depth(name)}
            rows.append(row | {column: metrics[name].get(metric, "") for metric, column in columns.items()})
    return rows


def end_of_curve(training: list[dict[str, Any]], heldout: list[dict[str, Any]]) -> dict[str, Any]:
    """Return where the curve ends: a few numbers by which `dvc exp show` and `dvc metrics diff` compare runs.

    rounds: of the main line. heldout_untrained, heldout_best: the curve's first and highest.
    """
    numbers: dict[str, Any] = {"rounds": max((row["depth"] for row in training + heldout), default=0)}
    if heldout:
        scores = [row["heldout_score"] for row in heldout]
        numbers |= {"heldout_score": scores[-1], "heldout_best": max(scores)}
        numbers |= {name: heldout[-1][name] for name in LAST_HELDOUT if heldout[-1][name] != ""}
        if heldout[0]["round"] == ROOT:
            numbers["heldout_untrained"] = scores[0]
    if training:
        numbers |= {name: training[-1][name] for name in LAST if training[-1][name] != ""}
    return numbers


def write_curve(path: Path, rows: list[dict[str, Any]], columns: dict[str, str]) -> None:
    """Write the rows as CSV, whole or not at all."""
    with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=["round", "parent", "depth", *columns.values()])
        writer.writeheader()
        writer.writerows(rows)
