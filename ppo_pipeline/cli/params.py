"""`ppo-pipeline params`: an older params.yaml becomes one of the installed version."""

from pathlib import Path

import click

from ..errors import PipelineError
from ..project.layout import repository_file
from ..project.new_project.derived import project_dvc_yaml
from ..project.params_file import write_checked
from ..project.params_upgrade import upgraded
from ..settings.json_schema import FILE
from ..settings.params import load_params
from ..settings.yaml_file import read_map
from ..storage.files import atomic_file


@click.group()
def params() -> None:
    """Bring params.yaml, or a preset, to the installed version."""


@params.command()
@click.argument("file", default="params.yaml", type=click.Path(path_type=Path))
def upgrade(file: Path) -> None:
    """Add the settings that FILE lacks, each with the value that keeps what it did before there was the setting.

    Settings with a former name are renamed. Comments, order and all other lines stay as they are. FILE is params.yaml
    unless another one is named, such as a preset in params/.
    """
    read_map(file, "sections with settings")
    text, said = upgraded(file.read_bytes().decode("utf-8"))  # read_text would turn CRLF into LF
    if said:
        try:
            write_checked(file, text)
        except PipelineError as error:
            raise PipelineError(f"{error.message}\nNothing was changed.") from None
        for line in said:
            click.echo(f"{file}: {line}")
        click.echo(f"{len(said)} changes, which keep what ran before; `ppo-pipeline status` tells what runs again")
    else:
        load_params(file)
        click.echo(f"{file} has every setting of this version; nothing to add")
    renew_schema(file.parent / FILE)
    tell_of_dvc_yaml(file.parent / "dvc.yaml")


def renew_schema(path: Path) -> None:
    """Bring the JSON schema beside params.yaml, which editors read, to this version; where there is none, make none."""
    packaged = repository_file(FILE)
    if path.is_file() and packaged.is_file() and path.read_bytes() != packaged.read_bytes():
        with atomic_file(path) as partial:
            partial.write_bytes(packaged.read_bytes())
        click.echo(f"{path} is of this version now")


def tell_of_dvc_yaml(path: Path) -> None:
    """Say so where the project's dvc.yaml is not the one that `ppo-pipeline init` writes with this version."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if "ppo_pipeline.stages" in text and text != project_dvc_yaml(repository_file("dvc.yaml").read_text("utf-8")):
        click.echo(f"{path} differs from this version's: `ppo-pipeline init` writes that one into another folder")
