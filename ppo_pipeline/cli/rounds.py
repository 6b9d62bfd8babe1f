"""`ppo-pipeline rounds`: the rounds map of params.yaml."""

from pathlib import Path
from typing import Any

import click

from ..project.paths import Paths
from ..project.rounds_file import RoundsFile, parse_overrides
from ..project.stages import OF_A_ROUND, STAGES
from ..settings.lines import span
from ..settings.params import ROOT, Round, load_params
from .round_named import BEST, round_named

PARAMS = Path("params.yaml")
MAIN = click.option("--main", is_flag=True, help="The main line, which curves and the report follow, goes on with it.")
MANY = 30  # open rounds; DVC then takes about as long as a small round's work
FILES = {name: STAGES[name].makes for name in OF_A_ROUND}


@click.group()
def rounds() -> None:
    """List, append, branch, remove and seal training rounds (params.yaml: rounds)."""


@rounds.command("list")
def list_rounds() -> None:
    """Show each round with its parent, its overrides and which of its stages' outputs are here."""
    from .printed import print_table

    params = load_params(PARAMS)
    rows = []
    for name, entry in params.all_rounds.items():
        folder = Paths(name).folder
        there = [stage for stage, file in FILES.items() if (folder / file).exists()]
        done = "all" if len(there) == len(FILES) else ", ".join(there) or "none"
        done += "" if name in params.rounds else " (sealed)"
        line = next(span(line) for line in params.lines if name in line)
        rows.append([name, entry.parent, str(params.depth(name)), line, describe(entry), done])
    print_table(["round", "parent", "depth", "line", "settings of its own", "outputs here"], rows)


def own_settings(entry: Round) -> dict[str, Any]:
    """Return a round's overrides by name: {"advantage.kl_coef": 0.1}."""
    found: dict[str, Any] = {}
    for section, value in entry.model_dump(exclude={"parent", "main"}).items():
        if isinstance(value, dict):
            found |= {f"{section}.{setting}": each for setting, each in value.items()}
        elif value is not None:
            found[section] = value
    return found


def describe(entry: Round) -> str:
    """Return a round's overrides as text: advantage.kl_coef=0.1 ..."""
    return " ".join(f"{name}={value}" for name, value in own_settings(entry).items())


@rounds.command()
@click.argument("count", type=click.IntRange(min=1))
@click.option("--parent", help="Start from this round; needed where several lines of rounds end.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.SETTING=VALUE", help="Settings of these rounds.")
@MAIN
def add(count: int, parent: str | None, settings: tuple[str, ...], main: bool) -> None:
    """Append COUNT rounds, each starting from the one before, the first from the end of the line of rounds."""
    file = RoundsFile(PARAMS)
    start = parent = parent or file.only_end()
    overrides = parse_overrides(list(settings))
    names: list[str] = []
    for _ in range(count):
        names.append(file.next_name())
        file.add(names[-1], parent, overrides, main=main and len(names) == 1)
        parent = names[-1]
    file.save()
    click.echo(f"added {', '.join(names)}, starting from {start}; `dvc repro` runs them")
    say_lines(names[0])
    say_settings_left(start, overrides)
    if len(file.rounds) > MANY:
        click.echo(
            f"{len(file.rounds)} rounds are open, and DVC takes longer the more there are: once they have run, "
            "`ppo-pipeline rounds seal` takes all but the last four out of the pipeline"
        )


@rounds.command()
@click.argument("parent")
@click.option("--name", required=True, help="Name of the new round, such as r003b.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.SETTING=VALUE", help="Settings of this round.")
@MAIN
def branch(parent: str, name: str, settings: tuple[str, ...], main: bool) -> None:
    """Add a round that starts from PARENT, beside those that already do (r000: from the untrained policy; best)."""
    if parent.partition(":")[0] == BEST:
        parent = round_named(load_params(PARAMS), parent)
    file = RoundsFile(PARAMS)
    file.add(name, parent, parse_overrides(list(settings)), main=main)
    file.save()
    click.echo(f"added {name}, starting from {parent}; `dvc repro evaluate@{name}` runs it")
    say_lines(name)


def say_lines(name: str) -> None:
    """Say which line a new round is on, where there are several."""
    main, *branches = load_params(PARAMS).lines
    if name in main and branches:
        click.echo(f"{name} is on the main line, {span(main)}, which curves and the report follow")
    elif branches:
        click.echo(f"{name} is on a branch; curves follow the main line, {span(main)}, unless it has `main: true`")


def say_settings_left(start: str, overrides: dict[str, Any]) -> None:
    """Say which settings of the round that new ones start from do not hold in them: a round has its own alone."""
    entry = load_params(PARAMS).all_rounds.get(start)
    set_here = own_settings(Round(parent=start, **overrides))
    left = [f"{name}={value}" for name, value in (own_settings(entry) if entry else {}).items() if name not in set_here]
    if left:
        click.echo(f"{', '.join(left)} holds in {start} alone; `--set` gives it to the rounds that are added, too")


@rounds.command()
@click.argument("name")
def remove(name: str) -> None:
    """Take the round NAME out of params.yaml; its files and cached outputs stay."""
    if name == ROOT:
        raise click.ClickException(f"{ROOT} is the untrained policy; it is always there.")
    file = RoundsFile(PARAMS)
    file.remove(name)
    file.save()
    folder = Paths(name).folder
    more = f"; its files under {folder} are still here" if folder.is_dir() else ""
    click.echo(f"removed {name} from params.yaml{more}")


@rounds.command()
@click.option("--keep", type=click.IntRange(min=0), help="Leave the last so many rounds open; 4 without an option.")
@click.option("--through", metavar="ROUND", help="Seal this round and those that lead to it.")
def seal(keep: int | None, through: str | None) -> None:
    """Take finished rounds out of the pipeline, which makes `dvc repro` quick again; they stay parents and results.

    Of each, sealed/ROUND.dvc lists the outputs for DVC; it no longer reruns when settings or code change.
    """
    from ..project.sealing.refresh import refresh
    from ..project.sealing.seal import seal as seal_rounds

    if keep is not None and through is not None:
        raise click.UsageError("--keep and --through exclude each other.")
    names = seal_rounds(4 if keep is None else keep, through)
    if not names:
        click.echo("no round to seal: the others are kept open")
        return
    click.echo(f"sealed {', '.join(names)}; commit sealed/, params.yaml and dvc.lock to git")
    refresh()


@rounds.command()
@click.argument("name")
def unseal(name: str) -> None:
    """Take the sealed round NAME, and those that descend from it, back into the pipeline."""
    from ..project.sealing.refresh import refresh
    from ..project.sealing.unseal import unseal as unseal_round

    names = unseal_round(name)
    click.echo(f"unsealed {', '.join(names)}; commit sealed/, params.yaml and dvc.lock to git")
    refresh()
