"""`ppo-pipeline push`: a round's model or adapter, and its card, to a model hub."""

import tempfile
from pathlib import Path

import click

from ..errors import PipelineError
from ..project.policies import base_folder, policy_folder
from ..settings.params import load_params
from .card import LICENCE, write_card
from .export import write
from .round_named import round_named


@click.command()
@click.option("--round", "name", required=True, help="Round whose policy is uploaded, such as r004; or best.")
@click.option("--average", is_flag=True, help="The mean of the last rounds' policies: update.average_rounds.")
@click.option("--adapter", is_flag=True, help="The LoRA alone, where its base is a hub model.")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("--license", "licence", metavar="NAME", help=LICENCE)
@click.argument("repo", metavar="OWNER/NAME")
def push(name: str, average: bool, adapter: bool, private: bool, licence: str | None, repo: str) -> None:
    """Upload a round's model and model card to the repository OWNER/NAME of the hub, which is made where it is missing.

    HF_ENDPOINT names another hub. The right to write is huggingface_hub's: `hf auth login`, or HF_TOKEN.
    """
    from ..models.upload import open_repository, upload
    from ..project.published import adapter_folder, hub_base
    from ..report.card.written import Published

    params = load_params(Path("params.yaml"))
    name = round_named(params, name)
    policy_folder(params, name, average)
    base_folder(params)
    if adapter:
        adapter_folder(params, name, average)
        if hub_base(params) is None:
            raise PipelineError(
                f"--adapter: the policies start from {params.start}, which is no hub's model as it is, so that nobody "
                "could load the adapter; leave out --adapter, which uploads the whole model."
            )
    open_repository(repo, private)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(params, name, average, adapter, folder)
        write_card(params, Published(name, average, adapter, repo, licence), folder / "README.md")
        address = upload(folder, repo, f"Round {name} of ppo_pipeline")
    click.echo(address)
