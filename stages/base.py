"""Stage `base`: bring the base model into data/base/, a plain transformers folder."""

from pathlib import Path

import click

from ppo_pipeline.models.base import acquire_base
from ppo_pipeline.observe.progress import result
from ppo_pipeline.observe.run_record import run_record
from ppo_pipeline.project.stage_command import StageCommand
from ppo_pipeline.sampling.trial import check_model
from ppo_pipeline.settings.params import load_params


@click.command("base", cls=StageCommand)
@click.option("--params", "params_path", type=click.Path(path_type=Path), required=True)
@click.option("--base", type=click.Path(path_type=Path), required=True)
def main(params_path: Path, base: Path) -> None:
    """Fetch, convert and check the model that `base.model` names."""
    settings = load_params(params_path).base
    with run_record("base") as record:
        model = acquire_base(settings, base, check_model)
        record["parameters"] = sum(p.numel() for p in model.parameters())
    result("base", f"{settings.model}, {record['parameters'] / 1e6:,.0f} million parameters, in {base}")


if __name__ == "__main__":
    main()
