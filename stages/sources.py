"""Stage `sources`: hashes of the local models that params.yaml names, looked at in each `dvc repro`."""

from pathlib import Path

import click

from ppo_pipeline.files import whole_folder
from ppo_pipeline.local_models import Hashes, source_texts
from ppo_pipeline.params import load_params
from ppo_pipeline.progress import result
from ppo_pipeline.stage_command import StageCommand


@click.command("sources", cls=StageCommand)
@click.option("--params", "params_path", type=click.Path(path_type=Path), required=True)
@click.option("--sources", "folder", type=click.Path(path_type=Path), required=True)
def main(params_path: Path, folder: Path) -> None:
    """Write data/sources/, so that changed weights in a folder rerun what is made of them."""
    hashes = Hashes()
    texts = source_texts(load_params(params_path), hashes)
    with whole_folder(folder) as partial:
        for name, text in texts.items():
            (partial / name).parent.mkdir(exist_ok=True)
            (partial / name).write_text(text, encoding="utf-8")
    hashes.save()
    result("sources", f"{len(hashes.asked)} local model files")


if __name__ == "__main__":
    main()
