"""`ppo-pipeline best`: the round of the best held-out score, and whether the held-out prompts can tell."""

from dataclasses import asdict

import click

from ..project.best_round import Standing, standings
from ..settings.lines import span
from ..settings.params import ROOT, Params, load_params
from .printed import json_text, note, print_table


@click.command()
@click.option(
    "--by", default="scores", show_default=True, metavar="METRIC", help="correct, pass@4, ...: any eval/METRIC."
)
@click.option("--limit", default=10, show_default=True, type=click.IntRange(min=1), help="Rounds shown.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document, with every round.")
def best(by: str, limit: int, as_json: bool) -> None:
    """Name the round with the highest held-out score, and those that the held-out prompts cannot tell from it.

    A difference has the standard error of the prompts' differences, since all rounds answered the same prompts.
    """
    by = by.removeprefix("eval/")
    params = load_params()
    found = standings(params, by)
    said = [*remarks(found, by), *where(params, found[0].round)]
    if as_json:
        rounds = [asdict(each) | {"close": each.close, "prompts_needed": each.prompts_needed} for each in found]
        click.echo(json_text({"by": f"eval/{by}", "best": found[0].round, "rounds": rounds, "remarks": said}, indent=2))
        return
    columns = ["round", f"eval/{by}", "+-", "behind", "behind +-", "prompts", "told from the best"]
    print_table(columns, [cells(each, found[0]) for each in found[:limit]], right=columns[1:-1])
    for text in said:
        note(text)


def cells(each: Standing, first: Standing) -> list[str]:
    """Return a round's line of the table."""
    numbers = [_number(each.value, "+.3f"), _number(each.error, ".3f")]
    if each is first:
        return [each.round, *numbers, "", "", str(each.prompts), ""]
    behind = [_number(each.behind, ".3f"), _number(each.behind_error, ".3f")]
    told = "no" if each.close else "yes" if each.told else "hardly"
    return [each.round, *numbers, *behind, str(each.prompts), told]


def remarks(found: list[Standing], by: str) -> list[str]:
    """Return what is to be said of the best round: its lead, what it cannot be told from, how it was chosen."""
    first, *others = found
    error = "" if first.error is None else f" (+- {first.error:.3f}, {first.prompts} prompts)"
    said = [f"{first.round}: eval/{by} {first.value:+.3f}{error}"]
    root = next((each for each in others if each.round == ROOT), None)
    if root is not None and root.behind_error is not None:
        said.append(f"{root.behind:+.3f} (+- {root.behind_error:.3f}) over the untrained policy {ROOT}")
    said += _untold([each for each in others if each.close], "not told from {}, within one standard error")
    said += _untold([each for each in others if not each.close and not each.told], "hardly told from {}, within two")
    if others:
        said.append(f"the best of {len(found)} on the very prompts that chose it: expect less on others")
    return said


def where(params: Params, name: str) -> list[str]:
    """Return that a round is on a branch, where it is; the curves follow the main line."""
    main, *branches = params.lines or [[]]
    return [
        f"{name} is on the branch {span(line)} from {params.parents[line[0]]}, not on the main line, {span(main)}"
        for line in branches
        if name in line
    ]


def _untold(rounds: list[Standing], text: str) -> list[str]:
    """Return that the prompts are too few to tell these rounds from the best, and how many would tell the nearest."""
    if not rounds:
        return []
    names = ", ".join(each.round for each in rounds[:5]) + (f" and {len(rounds) - 5} more" if len(rounds) > 5 else "")
    needed = rounds[0].prompts_needed
    more = f"; about {needed:,} would tell {rounds[0].round}" if needed else ""
    return [f"{text.format(names)}: too few held-out prompts{more}"]


def _number(value: float | None, shape: str) -> str:
    return "" if value is None else f"{value:{shape}}"
