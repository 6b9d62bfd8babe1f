"""Stage `settings`: check params.yaml and write the effective settings of each stage of each round."""

from pathlib import Path

import click

from ppo_pipeline.files import whole_folder
from ppo_pipeline.params import ROOT, load_params
from ppo_pipeline.progress import result
from ppo_pipeline.stage_command import StageCommand
from ppo_pipeline.stage_settings import ROUND_STAGES, EvaluateSettings


@click.command("settings", cls=StageCommand)
@click.option("--params", "params_path", type=click.Path(path_type=Path), required=True)
@click.option("--settings", "folder", type=click.Path(path_type=Path), required=True)
def main(params_path: Path, folder: Path) -> None:
    """Write data/settings/<round>/<stage>.json; any mistake in params.yaml stops here, before costly work."""
    params = load_params(params_path)
    with whole_folder(folder) as partial:
        for name in [ROOT, *params.rounds]:
            stages = {"evaluate": EvaluateSettings} if name == ROOT else ROUND_STAGES
            (partial / name).mkdir()
            for stage, settings in stages.items():
                text = settings.of(params, name).model_dump_json(by_alias=True, indent=2) + "\n"
                (partial / name / f"{stage}.json").write_text(text, encoding="utf-8")
    sealed = len(params.all_rounds) - len(params.rounds)
    more = f" and {sealed} sealed" if sealed else ""
    result("settings", f"{len(params.rounds)} rounds{more}, params.yaml is sound")


if __name__ == "__main__":
    main()
