"""`ppo-pipeline status`: the rounds, and what a `dvc repro` would run."""

from typing import Any

import click

from ..errors import PipelineError
from ..project.paths import Paths
from ..project.plan.as_run import metrics_of
from ..project.plan.durations import Durations
from ..settings.lines import goes_on
from ..settings.params import ROOT, Params, load_params
from .printed import heading, json_text, note, on_terminal, print_table
from .rounds import FILES, describe

NUMBERS = {
    "score": "objective/scores",
    "heldout_score": "eval/scores",
    "heldout_score_se": "eval/scores_se",
    "heldout_correct": "eval/correct",
    "kl": "objective/kl",
}
TITLES = {  # of the table's columns, with how their numbers are written
    "score": ("score", "+.3f"),
    "heldout_score": ("held-out score", "+.3f"),
    "heldout_score_se": ("+-", ".3f"),
    "heldout_correct": ("right", ".3f"),
    "kl": ("KL", "+.3f"),
}
SOME = ("heldout_score_se", "heldout_correct")  # columns that are left out where no round has the number
KINDS = {
    "runs": "",
    "follows": "follows: runs too, unless what it reads comes out as it was",
    "cached": "cached: DVC restores it, nothing is computed",
}
UNTIMED = ("code", "settings", "source", "prompts", "summary")  # light stages, which keep no record of their time


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def status(as_json: bool) -> None:
    """Show the rounds with their results, and what `dvc repro` would run, why, and about how long it takes.

    An edit of params.yaml or of the code is followed through to the stages that it concerns. Changes nothing.
    """
    params = load_params()
    rounds = [round_entry(params, name, branch) for name, branch in in_tree(params)]
    trouble = None
    stages: list[dict[str, Any]] | None = None
    try:
        stages, sizes = _outlook(params)
        for entry in rounds:
            entry["cached_bytes"] = sizes.get(entry["round"], 0)
    except PipelineError as error:  # DVC is at work, or cannot read dvc.yaml: the rounds can be shown all the same
        trouble = error.message
    if as_json:
        certain, most = seconds(stages or [])
        times = {"seconds": certain, "seconds_at_most": most} if stages is not None else {}
        click.echo(json_text({"rounds": rounds, "reruns": stages, **times, "trouble": trouble}, indent=2))
        return
    print_rounds(rounds)
    heading("what `dvc repro` would do")
    if stages is None:
        note(f"not known: {trouble}")
    elif not stages:
        note("nothing: all is up to date")
    else:
        print_reruns(stages)


def in_tree(params: Params) -> list[tuple[str, int]]:
    """Return the rounds, r000 first, each with the number of branches that it stands on.

    A round is followed by its children's lines. The one that goes on with its own line stands last and is not
    indented; the others are branches.
    """
    children: dict[str, list[str]] = {}
    for name, entry in params.all_rounds.items():
        children.setdefault(entry.parent, []).append(name)
    following = goes_on(params.parents, params.marked)
    found, waiting = [], [(ROOT, 0)]
    while waiting:
        name, branch = waiting.pop()
        found.append((name, branch))
        on = following.get(name)
        waiting += [(child, branch + (child != on)) for child in sorted(children.get(name, []), key=lambda c: c != on)]
    return found


def round_entry(params: Params, name: str, branch: int) -> dict[str, Any]:
    """Return what is to be said of a round."""
    metrics = metrics_of(params, name)
    entry = params.all_rounds.get(name)
    files = {"evaluate": FILES["evaluate"]} if entry is None else FILES
    return {
        "round": name,
        "parent": None if entry is None else entry.parent,
        "depth": params.depth(name),
        "branch": branch,
        "sealed": name != ROOT and name not in params.rounds,
        "settings": "" if entry is None else describe(entry),
        **{key: metrics.get(metric) for key, metric in NUMBERS.items()},
        "here": {stage: (Paths(name).folder / file).exists() for stage, file in files.items()},
    }


def _outlook(params: Params) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the stages that would not be skipped, and the bytes of each round that are in DVC's cache."""
    from ..project.plan.cached import cached_bytes
    from ..project.plan.reruns import reruns
    from ..project.sealing.tracked import dvc_project

    durations = Durations(params)
    with dvc_project() as dvc:
        sizes = cached_bytes(dvc.repo)
        found = reruns(dvc.repo, params)
    return [
        {
            "stage": rerun.stage,
            "kind": rerun.kind,
            "why": rerun.why,
            "seconds": 0.0 if rerun.kind == "cached" else durations.of(rerun.stage),
        }
        for rerun in found
    ], sizes


def seconds(stages: list[dict[str, Any]]) -> tuple[float, float]:
    """Return the seconds of the stages that run in any case, and of all; those without a record count as none."""
    certain = sum(stage["seconds"] or 0.0 for stage in stages if stage["kind"] == "runs")
    return round(certain, 1), round(sum(stage["seconds"] or 0.0 for stage in stages), 1)


def print_rounds(rounds: list[dict[str, Any]]) -> None:
    """Print the rounds; on a terminal branches are indented."""
    drawn, cells = on_terminal(), []
    shown = [key for key in TITLES if key not in SOME or any(entry[key] is not None for entry in rounds)]
    for entry in rounds:
        here = [stage for stage, there in entry["here"].items() if there]
        done = "all" if len(here) == len(entry["here"]) else ", ".join(here) or "none"
        size = entry.get("cached_bytes")
        cells.append(
            [
                ("  " * (entry["branch"] - 1) + "└ " if drawn and entry["branch"] else "") + entry["round"],
                entry["parent"] or "",
                *("" if entry[key] is None else f"{entry[key]:{TITLES[key][1]}}" for key in shown),
                done + (" (sealed)" if entry["sealed"] else ""),
                "" if size is None else f"{size / 1e6:,.1f} MB",
                entry["settings"],
            ]
        )
    numbers = [TITLES[key][0] for key in shown]
    columns = ["round", "parent", *numbers, "outputs here", "in cache", "settings of its own"]
    print_table(columns, cells, right=(*numbers, "in cache"))


def print_reruns(stages: list[dict[str, Any]]) -> None:
    """Print the stages that would not be skipped; those of several rounds for the same reason share a line."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for stage in stages:
        name, _, of = stage["stage"].partition("@")
        why = ", ".join(dict.fromkeys(_without_round(reason, of) for reason in stage["why"]))
        shared = "" if stage["kind"] == "follows" else why
        groups.setdefault((name, stage["kind"], shared), []).append(stage | {"round": of, "reason": why})
    cells = []
    for (name, kind, _), group in groups.items():
        rounds = [stage["round"] for stage in group if stage["round"]]
        said = rounds if len(rounds) < 4 else [rounds[0], "...", rounds[-1], f"({len(rounds)})"]
        times = [stage["seconds"] for stage in group]
        time = "?" if None in times and name not in UNTIMED else about(sum(t or 0.0 for t in times))
        time = "" if name in UNTIMED or kind == "cached" else time
        cells.append([kind, name, " ".join(said), time, group[0]["reason"]])
    print_table(["", "stage", "rounds", "about", "why"], cells, right=("about",))
    for kind, meaning in KINDS.items():
        if meaning and any(stage["kind"] == kind for stage in stages):
            note(meaning)
    certain, most = seconds(stages)
    unknown = [s["stage"] for s in stages if s["seconds"] is None and s["stage"] not in UNTIMED]
    more = f", {len(unknown)} stages without a record not counted" if unknown else ""
    upto = f", up to {about(most)} with all that follows" if most > certain else ""
    note(f"about {about(certain)}{upto}, by the times in logs/{more}; DVC's own work comes on top")


def about(number: float) -> str:
    """Return seconds as text: 8 s, 3 min, 2.5 h."""
    if number < 90:
        return f"{number:.0f} s"
    return f"{number / 60:.0f} min" if number < 5400 else f"{number / 3600:.1f} h"


def _without_round(reason: str, name: str) -> str:
    """Return a reason without the round in it: the stages that a stage follows, of whichever round; its own files."""
    stage, at, _ = reason.partition("@")
    return stage if at and " " not in reason else reason.replace(f"/{name}/", "/*/") if name else reason
