"""How the whole run stands as a round's evaluation ends: a line, and the curve so far for those who look in.

The curve so far is no stage's output: it lies in logs/curve/, beside what else differs from run to run. metrics/ has
the whole one once `summary` has run.
"""

from pathlib import Path
from typing import Any

import click

from ..errors import PipelineError
from ..observe.counter import spoken
from ..settings.params import ROOT, Params, load_params
from .learning_curve import CRITIC, HELDOUT, TRAINING, curve_rows, write_curve
from .plan.as_run import metrics_of
from .plan.left import seconds_left, stages_left

CURVES = Path("logs/curve")


def tell_run(name: str) -> None:
    """Write the curve up to round `name`, and print a line for the whole run.

    The stage is done when this begins: what it cannot know, as while params.yaml is being edited, it leaves out.
    """
    try:
        params = load_params()
        metrics = {each: metrics_of(params, each) for each in [ROOT, *params.lineage(name)]}
        write_curves(params, metrics, name)
        if name != ROOT:
            click.echo(line(params, metrics, name))
    except (PipelineError, OSError) as error:
        click.echo(f"{CURVES}: not up to date: {error}", err=True)


def write_curves(params: Params, metrics: dict[str, dict[str, Any]], name: str) -> None:
    """Write logs/curve/, files like those that the stage `summary` writes to metrics/; no row of a round to come."""
    for curve, columns in {"training": TRAINING, "heldout": HELDOUT, "critic": CRITIC}.items():
        rows = curve_rows(params, metrics, columns, curve == "heldout", name)
        write_curve(CURVES / f"{curve}.csv", rows, columns)


def line(params: Params, metrics: dict[str, dict[str, Any]], name: str) -> str:
    """Return `round 3 of 8, held-out +0.43 (+0.12 over r002, +0.48 over untrained), about 12 min left`."""
    parts = [f"round {[*params.all_rounds].index(name) + 1} of {len(params.all_rounds)}"]
    scores = {each: numbers["eval/scores"] for each, numbers in metrics.items() if "eval/scores" in numbers}
    if name in scores:
        over = {params.all_rounds[name].parent: "", ROOT: "untrained"}
        gains = [
            f"{scores[name] - scores[each]:+.2f} over {said or each}" for each, said in over.items() if each in scores
        ]
        parts.append(f"held-out {scores[name]:+.2f}" + (f" ({', '.join(gains)})" if gains else ""))
    return ", ".join([*parts, time_left(params, name)])


def time_left(params: Params, name: str) -> str:
    """Return the time that the rounds to come take, by what the stages of this one took; or how many these are."""
    left = stages_left(params, name)
    if not left:
        return "none left"
    seconds = seconds_left(params, name, left)
    rounds = len({stage.partition("@")[2] for stage in left})
    return f"{rounds} to come" if seconds is None else f"about {spoken(seconds)} left"
