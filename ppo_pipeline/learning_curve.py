"""The learning curve: one row per round, from the metrics that the stages wrote."""

import csv
import json
from pathlib import Path
from typing import Any

from .errors import PipelineError
from .params import ROOT, Params

COLUMNS = {
    "objective/scores": "train_score",
    "eval/scores": "heldout_score",
    "objective/kl": "kl",
    "objective/entropy": "entropy",
    "val/response_length": "response_length",
    "eval/response_length": "heldout_response_length",
    "loss/policy": "policy_loss",
    "loss/value": "value_loss",
    "policy/clipfrac": "clip_fraction",
    "policy/approxkl": "approx_kl",
    "policy/grad_norm": "grad_norm",
    "val/explained_variance": "explained_variance",
}


def round_metrics(folder: Path, name: str) -> dict[str, Any]:
    """Return all metrics of a round: those of its stages in `folder`/<round>/, merged and sorted by name."""
    merged: dict[str, Any] = {}
    for path in sorted((folder / name).glob("*.json")):
        try:
            merged |= json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise PipelineError(f"{path}: not valid JSON: {error}; delete it and rerun.") from None
    return dict(sorted(merged.items()))


def curve_rows(params: Params, metrics: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row per round, r000 first, then as in params.yaml: round, parent, depth, and COLUMNS.

    The first row holds what is known of the untrained policy: its held-out score.
    """
    rows = []
    for name in [ROOT, *params.rounds]:
        parent = "" if name == ROOT else params.rounds[name].parent
        row: dict[str, Any] = {"round": name, "parent": parent, "depth": params.depth(name)}
        row |= {column: metrics[name].get(metric, "") for metric, column in COLUMNS.items()}
        rows.append(row)
    return rows


def write_curve(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=["round", "parent", "depth", *COLUMNS.values()])
        writer.writeheader()
        writer.writerows(rows)
