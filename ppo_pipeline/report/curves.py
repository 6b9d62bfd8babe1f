"""The learning curves: each metric of each round, for every branch."""

import json
from typing import Any

from ..errors import PipelineError
from ..project.learning_curve import merged, round_metrics, sealed_metrics
from ..project.paths import Paths
from ..settings.params import ROOT
from .run import Run

# The first charts, with the words for them; every other metric follows under its own name.
CHARTS = {
    "eval/scores": "Held-out score",
    "eval/correct": "Held-out answers that are right",
    "objective/scores": "Training score",
    "objective/kl": "KL to the base (nats)",
    "objective/entropy": "Entropy (nats a token)",
    "val/response_length": "Response length (tokens)",
    "eval/finished": "Held-out answers that ended",
    "policy/clipfrac": "Clipped tokens",
    "val/explained_variance": "Explained variance of the values",
    "policy/grad_norm": "Gradient norm",
}
ERROR = "_se"


def curves(run: Run) -> dict[str, Any]:
    """Return {charts: [{metric, title, main}], lines: [{label, start, rounds}], depth: {round: n}, values, rewards}.

    values: {metric: {round: number}}; a standard error, <metric>_se, is told with its metric and has no chart of its
    own. rewards: the metrics that are drawn against the KL. Adds a note for the rounds that have no metrics.
    """
    metrics = {name: metrics_of(run, name) for name in run.rounds}
    without = [name for name in run.rounds if not metrics[name]]
    if without:
        run.notes.append(f"No metrics yet for {', '.join(without)}; `dvc repro` makes them.")
    names = {metric for numbers in metrics.values() for metric in numbers}
    charts = in_order(names)
    order = sorted(names)
    return {
        "charts": charts,
        "lines": [{"label": line.label, "start": line.start, "rounds": line.rounds} for line in run.lines],
        "depth": {name: run.params.depth(name) for name in run.rounds},
        "values": {m: {n: float(f"{metrics[n][m]:.6g}") for n in run.rounds if m in metrics[n]} for m in order},
        "rewards": rewards_in(run, names),
    }


def rewards_in(run: Run, names: set[str]) -> list[dict[str, str]]:
    """Return metric and title of the score and of each component that is recorded beside it, with its weight.

    None where the score is all there is. How a reward that is learnt from (a proxy) parts from one that is only
    recorded (gold) as the policy leaves the base: Gao et al. 2022, arXiv:2210.10760.
    """
    components = {f"reward/{c.name}": f"{c.name}, weight {c.weight:g}" for c in run.params.reward.components}
    found = [{"metric": metric, "title": title} for metric, title in components.items() if metric in names]
    if len(found) < 2 or "objective/kl" not in names:
        return []
    return [{"metric": "objective/scores", "title": CHARTS["objective/scores"]}, *found]


def in_order(names: set[str]) -> list[dict[str, Any]]:
    """Return the charts of these metrics: the main ones first, then the others by name, but no standard errors."""
    first = [metric for metric in CHARTS if metric in names]
    errors = {metric for metric in names if metric.endswith(ERROR) and metric.removesuffix(ERROR) in names}
    order = [*first, *sorted(names - set(first) - errors)]
    return [{"metric": m, "title": CHARTS.get(m, m), "main": m in CHARTS} for m in order]


def metrics_of(run: Run, name: str) -> dict[str, float]:
    """Return a round's metrics: a sealed one's from git, else its stages', else what the summary made of them."""
    if name != ROOT and name not in run.params.rounds:
        found = merged(sealed_metrics(Paths(root=run.root).sealed_metrics, name))
    else:
        found = round_metrics(Paths(root=run.root).stage_metrics, name) or _summarised(run, name)
    return {
        metric: float(value)
        for metric, value in found.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _summarised(run: Run, name: str) -> dict[str, Any]:
    path = Paths(root=run.root).round_metrics / f"{name}.json"
    if not path.is_file():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise PipelineError(f"{path}: not valid JSON: {error}; delete it and rerun.") from None
    return found
