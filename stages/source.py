"""Stage `source`: the hashes of a local model's files, taken where DVC finds that something changed there."""

from pathlib import Path

import click

from ppo_pipeline.observe.progress import result
from ppo_pipeline.project.local_models import write_record
from ppo_pipeline.project.stage_command import StageCommand
from ppo_pipeline.settings.params import load_params


@click.command("source", cls=StageCommand)
@click.option("--params", "params_path", type=click.Path(path_type=Path), required=True)
@click.option("--name", required=True, help="Name in `sources`.")
@click.option("--record", type=click.Path(path_type=Path), required=True)
def main(params_path: Path, name: str, record: Path) -> None:
    """Write data/sources/<name>.json: SHA-256 by file."""
    model = load_params(params_path).sources[name]
    count = write_record(record, Path(model))
    result("source", f"{name}, {count} files in {model}")


if __name__ == "__main__":
    main()
