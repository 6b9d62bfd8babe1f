"""Stage `prompts`: read the prompt set and split it."""

from pathlib import Path

import click

from ppo_pipeline.observe.progress import result
from ppo_pipeline.project.stage_command import StageCommand
from ppo_pipeline.prompts.sources import read_prompts
from ppo_pipeline.settings.params import load_params
from ppo_pipeline.tables.prompts import PROMPTS


@click.command("prompts", cls=StageCommand)
@click.option("--params", "params_path", type=click.Path(path_type=Path), required=True)
@click.option("--prompts", "target", type=click.Path(path_type=Path), required=True)
def main(params_path: Path, target: Path) -> None:
    """Check the prompts of `prompts.source` and write them as one table."""
    table = read_prompts(load_params(params_path).prompts)
    PROMPTS.write(table, target)
    splits = table.column("split").to_pylist()
    result("prompts", f"{splits.count('train')} to train on, {splits.count('heldout')} held out")


if __name__ == "__main__":
    main()
