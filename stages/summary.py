"""Stage `summary`: one metrics file per round, the learning curve that `dvc plots` draws, and where it ends."""

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
from ppo_pipeline.project.paths import Paths
from ppo_pipeline.resume.scratch import remove_done
from ppo_pipeline.settings.params import ROOT, load_params
from ppo_pipeline.storage.files import atomic_folder, write_json


def run() -> None:
    """Merge the stages' metrics of each round, and line the rounds up."""
    params, paths = load_params(), Paths()
    opened = [ROOT, *params.rounds]
    for name in opened:
        refuse_missing(paths.stage_metrics, name)
    metrics = {
        name: round_metrics(paths.stage_metrics, name)
        if name in opened
        else merged(sealed_metrics(paths.sealed_metrics, name))
        for name in [ROOT, *params.all_rounds]
    }
    with atomic_folder(paths.round_metrics) as partial:
        for name, numbers in metrics.items():
            write_json(partial / f"{name}.json", numbers)
    trained = curve_rows(params, metrics, TRAINING, with_root=False)
    write_curve(paths.curve("training"), trained, TRAINING)
    rows = curve_rows(params, metrics, HELDOUT, with_root=True)
    write_curve(paths.curve("heldout"), rows, HELDOUT)
    write_curve(paths.curve("critic"), curve_rows(params, metrics, CRITIC, with_root=False), CRITIC)
    write_json(paths.summary, end_of_curve(trained, rows))
    remove_done()  # DVC has taken over what the stages before this one wrote
    scores = [row["heldout_score"] for row in rows]
    text = f", held-out score {scores[0]:+.3f} -> {scores[-1]:+.3f}" if scores else ""
    result("summary", f"{len(params.all_rounds)} rounds{text}")
