"""Stage `reward`: score each sampled response."""

from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ppo_pipeline.observe.progress import result
from ppo_pipeline.observe.run_record import run_record
from ppo_pipeline.project.stage_command import StageCommand
from ppo_pipeline.resume.scratch import Scratch
from ppo_pipeline.rewards.scoring import check_prompts, join_prompts, score_samples
from ppo_pipeline.settings.stage_settings import RewardSettings, read_settings
from ppo_pipeline.storage.files import write_json
from ppo_pipeline.tables.prompts import PROMPTS
from ppo_pipeline.tables.rewards import REWARDS
from ppo_pipeline.tables.rollouts import ROLLOUTS

COLUMNS = ["prompt_id", "prompt_text", "response_text", "response_ids"]


@click.command("reward", cls=StageCommand)
@click.option("--settings", "settings_path", type=click.Path(path_type=Path), required=True)
@click.option("--prompts", "prompts_path", type=click.Path(path_type=Path), required=True)
@click.option("--rollouts", "rollouts_path", type=click.Path(path_type=Path), required=True)
@click.option("--rewards", "target", type=click.Path(path_type=Path), required=True)
@click.option("--metrics", type=click.Path(path_type=Path), required=True)
def main(settings_path: Path, prompts_path: Path, rollouts_path: Path, target: Path, metrics: Path) -> None:
    """Compute the reward components and their weighted sum, and write rewards.parquet."""
    settings = read_settings(RewardSettings, settings_path)
    prompts = PROMPTS.read(prompts_path)
    check_prompts(settings.reward, prompts.filter(pc.equal(prompts.column("split"), "train")))
    rollouts = ROLLOUTS.read(rollouts_path, COLUMNS).to_pydict()
    samples = join_prompts(
        rollouts["sample_id"],
        rollouts["prompt_id"],
        rollouts["prompt_text"],
        rollouts["response_text"],
        rollouts["response_ids"],
        prompts,
    )
    scratch = Scratch("reward", settings.round, (prompts_path, rollouts_path))
    with run_record("reward", settings.round):
        scores = score_samples(settings.reward, samples, scratch)
    REWARDS.write(pa.table({"sample_id": samples.sample_ids, **scores}), target)
    numbers = {
        "objective/scores": float(np.mean(scores["score"])),
        "objective/scores_std": float(np.std(scores["score"])),
    }
    for name in scores:
        if name != "score":
            numbers[f"reward/{name}"] = float(np.mean(scores[name]))
    write_json(metrics, numbers)
    scratch.finish()
    result(
        f"reward {settings.round}", f"{len(samples)} samples, mean score {numbers['objective/scores']:+.3f}", numbers
    )


if __name__ == "__main__":
    main()
