"""Stage `summary`: one metrics file per round, the learning curve that `dvc plots` draws, and where it ends."""

from pathlib import Path

import click

from ppo_pipeline.observe.progress import result
from ppo_pipeline.project.learning_curve import (
    CRITIC,
    HELDOUT,
    TRAINING,
    curve_rows,
    end_of_curve,
    merged,
    refuse_missing,
    round_metrics,
    sealed_metrics,
    write_curve,
)
from ppo_pipeline.project.stage_command import StageCommand
from ppo_pipeline.resume.scratch import remove_done
from ppo_pipeline.settings.params import ROOT, load_params
from ppo_pipeline.storage.files import whole_folder, write_json


@click.command("summary", cls=StageCommand)
@click.option("--params", "params_path", type=click.Path(path_type=Path), required=True)
@click.option("--stages", "stages_folder", type=click.Path(path_type=Path), required=True)
@click.option("--sealed", type=click.Path(path_type=Path), required=True)
@click.option("--rounds", "rounds_folder", type=click.Path(path_type=Path), required=True)
@click.option("--training", type=click.Path(path_type=Path), required=True)
@click.option("--heldout", type=click.Path(path_type=Path), required=True)
@click.option("--critic", type=click.Path(path_type=Path), required=True)
@click.option("--summary", type=click.Path(path_type=Path), required=True)
def main(
    params_path: Path, stages_folder: Path, sealed: Path, rounds_folder: Path, training: Path, heldout: Path,
    critic: Path, summary: Path,
) -> None:  # fmt: skip
    """Merge the stages' metrics of each round, and line the rounds up."""
    params = load_params(params_path)
    opened = [ROOT, *params.rounds]
    for name in opened:
        refuse_missing(stages_folder, name)
    metrics = {
        name: round_metrics(stages_folder, name) if name in opened else merged(sealed_metrics(sealed, name))
        for name in [ROOT, *params.all_rounds]
    }
    with whole_folder(rounds_folder) as partial:
        for name, numbers in metrics.items():
            write_json(partial / f"{name}.json", numbers)
    trained = curve_rows(params, metrics, TRAINING, with_root=False)
    write_curve(training, trained, TRAINING)
    rows = curve_rows(params, metrics, HELDOUT, with_root=True)
    write_curve(heldout, rows, HELDOUT)
    write_curve(critic, curve_rows(params, metrics, CRITIC, with_root=False), CRITIC)
    write_json(summary, end_of_curve(trained, rows))
    remove_done()  # DVC has taken over what the stages before this one wrote
    scores = [row["heldout_score"] for row in rows]
    text = f", held-out score {scores[0]:+.3f} -> {scores[-1]:+.3f}" if scores else ""
    result("summary", f"{len(params.all_rounds)} rounds{text}")


if __name__ == "__main__":
    main()
