"""`ppo-pipeline rounds`: the rounds map of params.yaml."""

from pathlib import Path

import click

from ..params import ROOT, Round, load_params
from ..rounds_file import RoundsFile, parse_overrides
from .literal import literal

PARAMS = Path("params.yaml")
FILES = {
    "rollout": "rollouts.parquet",
    "reward": "rewards.parquet",
    "reference": "reference.parquet",
    "advantage": "advantages.parquet",
    "update": "policy",
    "evaluate": "eval.parquet",
}


@click.group()
def rounds() -> None:
    """List, append, branch and remove training rounds (params.yaml: rounds)."""


@rounds.command("list")
def list_rounds() -> None:
    """Show each round with its parent, its overrides and which of its stages' outputs are here."""
    from rich.console import Console
    from rich.table import Table

    params = load_params(PARAMS)
    table = Table()
    for column in ("round", "parent", "depth", "settings of its own", "outputs here"):
        table.add_column(column)
    for name, entry in params.rounds.items():
        folder = Path("data/rounds") / name
        there = [stage for stage, file in FILES.items() if (folder / file).exists()]
        done = "all" if len(there) == len(FILES) else ", ".join(there) or "none"
        table.add_row(name, entry.parent, str(params.depth(name)), literal(describe(entry)), done)
    Console().print(table)


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


@rounds.command()
@click.argument("parent")
@click.option("--name", required=True, help="Name of the new round, such as r003b.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.SETTING=VALUE", help="Settings of this round.")
def branch(parent: str, name: str, settings: tuple[str, ...]) -> None:
    """Add a round that starts from PARENT, beside those that already do (r000: from the untrained policy)."""
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
    click.echo(f"removed {name} from params.yaml; its files under data/rounds/{name} are still here")
