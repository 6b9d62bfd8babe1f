"""The learning curves: each metric of each round, for every branch."""

import json
from typing import Any

from ..errors import PipelineError
from ..project.learning_curve import merged, round_metrics, sealed_metrics
from ..project.paths import Paths
from ..settings.params import ROOT
from .metric_titles import in_order, main_titles
from .run import Run


def curves(run: Run) -> dict[str, Any]:
    """Return {charts, lines: [{label, start, rounds}], depth: {round: n}, values: {metric: {round: number}}, rewards}.

    charts, rewards: {metric, title, unit, main} of each; rewards are drawn over KL and length too. A standard error,
    <metric>_se, is told with its metric and has no chart of its own. Adds a note for the rounds without metrics.
    """
    metrics = {name: metrics_of(run, name) for name in run.rounds}
    without = [name for name in run.rounds if not metrics[name]]
    if without:
        run.notes.append(f"No metrics yet for {', '.join(without)}; `dvc repro` makes them.")
    names = {metric for numbers in metrics.values() for metric in numbers}
    charts = in_order(names, main_titles(run.params))
    order = sorted(names)
    return {
        "charts": charts,
        "lines": [{"label": line.label, "start": line.start, "rounds": line.rounds} for line in run.lines],
        "depth": {name: run.params.depth(name) for name in run.rounds},
        "values": {m: {n: float(f"{metrics[n][m]:.6g}") for n in run.rounds if m in metrics[n]} for m in order},
        "rewards": rewards_in(run, names),
    }


def rewards_in(run: Run, names: set[str]) -> list[dict[str, Any]]:
    """Return the charts of the score and of each component of the samples: what is drawn over the KL and the length.

    How a reward that is learnt from (a proxy) parts from one that is only recorded (gold) as the policy leaves the
    base: Gao et al. 2022, arXiv:2210.10760. A score that rises with nothing but the length: Singhal et al. 2023,
    arXiv:2310.03716. Of one component alone the score is enough.
    """
    components = [f"reward/{c.name}" for c in run.params.reward.components]
    wanted = {"objective/scores", *(components if len(components) > 1 else ())}
    return in_order(names & wanted, main_titles(run.params))


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
