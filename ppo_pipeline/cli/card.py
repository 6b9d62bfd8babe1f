"""`ppo-pipeline card`: the model card of a round."""

from pathlib import Path

import click

from ..errors import PipelineError
from ..project.policies import policy_folder
from ..settings.params import Params, load_params
from ..storage.files import atomic_file
from .round_named import round_named

LICENCE = "Licence of the model as a hub spells it, such as apache-2.0; as a rule that of its base."


@click.command()
@click.option("--round", "name", required=True, help="Round that the card is of, such as r004; or best.")
@click.option("--average", is_flag=True, help="The mean of the last rounds' policies: update.average_rounds.")
@click.option("--repo", metavar="OWNER/NAME", help="Where the model will lie, for the lines that load it. Else OUT.")
@click.option("--license", "licence", metavar="NAME", help=LICENCE)
@click.option("--overwrite", is_flag=True, help="Replace a README.md that is there.")
@click.argument("out", type=click.Path(path_type=Path), default=Path("model-card"))
def card(name: str, average: bool, repo: str | None, licence: str | None, overwrite: bool, out: Path) -> None:
    """Write OUT/README.md, model-card/README.md unless given: what a hub shows of the model.

    OUT may be a folder that `export` wrote; where that is an adapter, the card is of one.
    """
    from ..report.card.written import Published

    params = load_params(Path("params.yaml"))
    name = round_named(params, name)
    policy_folder(params, name, average)
    target = out / "README.md"
    if target.exists() and not overwrite:
        raise PipelineError(f"{target}: exists already; choose another folder, or give --overwrite.")
    adapter = (out / "adapter_config.json").is_file()
    write_card(params, Published(name, average, adapter, repo or out.as_posix(), licence), target)
    click.echo(f"{target}: the card of {name}")


def write_card(params: Params, of: "Published", target: Path) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Write a card, whole or not at all; say where no licence is known."""
    from ..report.card.written import card_of, licence_of

    text = str(card_of(params, of))
    with atomic_file(target) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")
    if not (of.licence or licence_of(params)):
        click.echo("The card names no licence; --license does, as a rule that of the base model.", err=True)
