"""`ppo-pipeline diff`: two rounds side by side."""

from typing import Any

import click
import numpy as np
import pyarrow as pa

from ..errors import PipelineError, nearest
from ..maths.heldout import standard_error
from ..project.paths import Paths
from ..project.plan.as_run import metrics_of, settings_of
from ..settings.files import differences, told
from ..settings.params import ROOT, Params, load_params
from .paired import paired
from .printed import heading, json_text, note, print_table
from .round_named import round_named
from .rounds import describe
from .selected import in_order
from .show import print_rows
from .where import matching

ROUNDS = Paths().rounds
PARTS = {
    "settings": "settings that differ",
    "metrics": "metrics",
    "answers": "answers to held-out prompts",
    "samples": "training samples of the same prompt",
}
SHOWN = ["prompt", "response_a", "response_b", "score_a", "score_b", "change"]


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--part", type=click.Choice(list(PARTS)), multiple=True, help="Show this part alone; can be repeated.")
@click.option("--where", metavar="CONDITION", help='Answers for which it holds: "change < 0 and tokens_b > 40".')
@click.option("--sort", multiple=True, metavar="[-]COLUMN", help="Order of the answers; else largest change first.")
@click.option("--limit", default=10, show_default=True, type=click.IntRange(min=1), help="Answers shown in each part.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document: every answer unless told otherwise.")
@click.pass_context
def diff(
    ctx: click.Context, a: str, b: str, part: tuple[str, ...], where: str | None, sort: tuple[str, ...], limit: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Compare the rounds A and B: settings as they ran, metrics, and answers to the same prompts with their scores."""
    params = load_params()
    a, b = (round_named(params, name) for name in (a, b))
    for name in (a, b):
        _refuse_empty(params, name)
    parts = [name for name in PARTS if name in (part or PARTS)]
    found: dict[str, Any] = {"a": a, "b": b, "relation": relation(params, a, b)}
    if "settings" in parts:
        found["settings"] = _settings(params, a, b)
    if "metrics" in parts:
        found["metrics"] = _metrics(metrics_of(params, a), metrics_of(params, b))
    given = as_json and ctx.get_parameter_source("limit") is click.core.ParameterSource.DEFAULT
    for name, file in (("answers", "eval.parquet"), ("samples", "rollouts.parquet")):
        if name in parts:
            rows, left_out = paired(ROUNDS / a / file, ROUNDS / b / file)
            if name == "answers":
                found["heldout"] = _change(rows)
            if rows is not None and where is not None:
                rows = matching(rows, where)
            if rows is not None and sort:
                rows = in_order(rows, sort, f"{a}, {b}: {file}")
            found[name] = rows, left_out, None if given else limit
    if as_json:
        tables = {name: _rows(*found[name]) for name in ("answers", "samples") if name in found}
        click.echo(json_text({**found, **tables}, indent=2))
        return
    note(f"a: {a}   b: {b}   {found['relation']}")
    for name in parts:
        heading(PARTS[name])
        {"settings": _print_settings, "metrics": _print_metrics}.get(name, _print_answers)(found[name])
        if name == "answers" and found["heldout"] is not None:
            error = found["heldout"]["change_se"]
            said = "" if error is None else f" (+- {error:.3f})"
            note(f"mean change over {found['heldout']['prompts']} prompts: {found['heldout']['change']:+.3f}{said}")


def relation(params: Params, a: str, b: str) -> str:
    """Return how two rounds are related, and what the rounds between set for themselves."""
    ways = [[ROOT, *params.lineage(name)] for name in (a, b)]
    shared = [name for name in ways[0] if name in ways[1]]
    on = {name: len(way) - len(shared) for name, way in zip((a, b), ways, strict=True)}
    text = ", ".join(f"{name} +{count}" for name, count in on.items() if count)
    own = [f"{name}: {said}" for way in ways for name in way if name not in shared and (said := _said(params, name))]
    return f"last common round: {shared[-1]} ({text or 'the same'})" + "".join(f"; {entry}" for entry in own)


def _said(params: Params, name: str) -> str:
    return describe(params.all_rounds[name])


def _refuse_empty(params: Params, name: str) -> None:
    known = [ROOT, *params.all_rounds]
    if name not in known:
        raise PipelineError(f"params.yaml: no round '{name}'.{nearest(name, known)}")
    if not metrics_of(params, name) and not (ROUNDS / name / "eval.parquet").is_file():
        stage = "baseline" if name == ROOT else f"evaluate@{name}"
        raise PipelineError(f"{ROUNDS / name}: nothing here yet; `dvc repro {stage}` makes it.")


def _settings(params: Params, a: str, b: str) -> dict[str, Any] | None:
    first, second = settings_of(params, a), settings_of(params, b)
    if first is None or second is None:
        return None
    if ROOT in (a, b):  # the untrained policy has the settings of `evaluate` alone
        shared = first.keys() & second.keys()
        first, second = ({n: v for n, v in found.items() if n in shared} for found in (first, second))
    return {name: {"a": told(x), "b": told(y)} for name, (x, y) in differences(first, second).items()}


def _metrics(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name in sorted({*first, *second}):
        x, y = first.get(name), second.get(name)
        found[name] = {"a": x, "b": y, "change": None if x is None or y is None else y - x}
    return found


def _change(rows: pa.Table | None) -> dict[str, Any] | None:
    """Return the mean change of the score over the prompts that both answered, with its paired standard error."""
    if rows is None or not rows.num_rows:
        return None
    changes = np.array(rows.column("change").to_pylist())
    return {"prompts": len(changes), "change": float(changes.mean()), "change_se": standard_error(changes)}


def _rows(rows: pa.Table | None, left_out: int, limit: int | None) -> list[dict[str, Any]] | None:
    return None if rows is None else (rows if limit is None else rows.slice(0, limit)).to_pylist()


def _print_settings(found: dict[str, Any] | None) -> None:
    if found is None:
        note("not known: a settings file of one of the rounds is neither here nor in DVC's cache; `dvc fetch` may help")
    elif not found:
        note("none")
    else:
        print_table(["setting", "a", "b"], [[name, pair["a"], pair["b"]] for name, pair in found.items()])


def _print_metrics(found: dict[str, Any]) -> None:
    cells = [[name, *(_number(pair[key], key) for key in ("a", "b", "change"))] for name, pair in found.items()]
    print_table(["metric", "a", "b", "change"], cells, right=("a", "b", "change"))


def _number(value: float | None, key: str) -> str:
    return "" if value is None else f"{value:+.4g}" if key == "change" else f"{value:.6g}"


def _print_answers(found: tuple[pa.Table | None, int, int | None]) -> None:
    rows, left_out, limit = found
    if rows is None:
        note("none: one of the rounds has no such table")
        return
    print_rows(rows.select(SHOWN), limit or rows.num_rows)
    more = f"; {left_out} left out, whose prompt reads otherwise in the other round" if left_out else ""
    shown = min(limit or rows.num_rows, rows.num_rows)
    note(f"{shown} of {rows.num_rows} prompts that both have{more}; columns: {', '.join(rows.column_names)}")
