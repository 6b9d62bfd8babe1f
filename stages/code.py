"""Stage `code`: a fingerprint of the code that each stage imports. The other stages depend on their own file."""

from pathlib import Path

import click

from ppo_pipeline.project.stage_command import StageCommand
from ppo_pipeline.storage.code_fingerprint import all_fingerprints
from ppo_pipeline.storage.files import whole_folder, write_json


@click.command("code", cls=StageCommand)
@click.option("--code", "folder", type=click.Path(path_type=Path), required=True)
def main(folder: Path) -> None:
    """Write data/code/<stage>.json, so that an edit reruns the stages that use what was edited, and only those."""
    with whole_folder(folder) as partial:
        for stage, fingerprints in all_fingerprints().items():
            write_json(partial / f"{stage}.json", fingerprints)


if __name__ == "__main__":
    main()
