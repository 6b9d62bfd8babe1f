"""`ppo-pipeline rounds`: the rounds map of params.yaml."""

from pathlib import Path

import click

from ..project.paths import Paths
from ..project.rounds_file import RoundsFile, parse_overrides
from ..project.stages import OF_A_ROUND, STAGES
from ..settings.params import ROOT, Round, load_params
from .round_named import BEST, round_named

PARAMS = Path("params.yaml")
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
        rows.append([name, entry.parent, str(params.depth(name)), describe(entry), done])
    print_table(["round", "parent", "depth", "settings of its own", "outputs here"], rows)


def describe(entry: Round) -> str:
    """Return a round's overrides as text: advantage.kl_coef=0.1 ..."""
    parts = []
    for section, value in entry.model_dump(exclude={"parent"}).items():
        if isinstance(value, dict):
            parts += [f"{section}.{setting}={number}" for setting, number in value.items()]
        elif value is not None:
            parts.append(f"{section}={value}")
    return " ".join(parts)


@rounds.command()
@click.argument("count", type=click.IntRange(min=1))
@click.option("--parent", help="Start from this round; otherwise from the last one of the map.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.SETTING=VALUE", help="Settings of these rounds.")
def add(count: int, parent: str | None, settings: tuple[str, ...]) -> None:
    """Append COUNT rounds, each starting from the one before."""
    file = RoundsFile(PARAMS)
    parent = parent or file.last()
    overrides = parse_overrides(list(settings))
    names = []
    for _ in range(count):
        names.append(file.next_name())
        file.add(names[-1], parent, overrides)
        parent = names[-1]
    file.save()
    click.echo(f"added {', '.join(names)}; `dvc repro` runs them")
    if len(file.rounds) > MANY:
        click.echo(
            f"{len(file.rounds)} rounds are open, and DVC takes longer the more there are: once they have run, "
            "`ppo-pipeline rounds seal` takes all but the last four out of the pipeline"
        )


@rounds.command()
@click.argument("parent")
@click.option("--name", required=True, help="Name of the new round, such as r003b.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.SETTING=VALUE", help="Settings of this round.")
def branch(parent: str, name: str, settings: tuple[str, ...]) -> None:
    """Add a round that starts from PARENT, beside those that already do (r000: from the untrained policy; best)."""
    if parent.partition(":")[0] == BEST:
        parent = round_named(load_params(PARAMS), parent)
    file = RoundsFile(PARAMS)
    file.add(name, parent, parse_overrides(list(settings)))
    file.save()
    click.echo(f"added {name}, starting from {parent}; `dvc repro evaluate@{name}` runs it")


@rounds.command()
@click.argument("name")
def remove(name: str) -> None:
    """Take the round NAME out of params.yaml; its files and cached outputs stay."""
    if name == ROOT:
        raise click.ClickException(f"{ROOT} is the untrained policy; it is always there.")
    file = RoundsFile(PARAMS)
    file.remove(name)
    file.save()
    click.echo(f"removed {name} from params.yaml; its files under {Paths(name).folder} are still here")


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
