"""Stage `reward`: score each sampled response."""

from contextlib import ExitStack
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ppo_pipeline.project.stage_run import stage_run
from ppo_pipeline.rewards.scoring import check_prompts, component_means, correct_of, join_prompts, score_samples
from ppo_pipeline.settings.stage_settings import RewardSettings
from ppo_pipeline.tables.prompts import PROMPTS
from ppo_pipeline.tables.rewards import REWARDS
from ppo_pipeline.tables.rollouts import ROLLOUTS

COLUMNS = ["sample_id", "prompt_id", "prompt_text", "response_text", "response_ids"]


def run(name: str) -> None:
    """Compute the reward components and their weighted sum, and write rewards.parquet."""
    with stage_run(RewardSettings, name) as stage, ExitStack() as opened:
        paths, reward = stage.paths, stage.settings.reward
        prompts = PROMPTS.read(paths.prompts)
        check_prompts(reward, prompts.filter(pc.equal(prompts.column("split"), "train")))
        rollouts = ROLLOUTS.read(paths.rollouts, COLUMNS).to_pydict()
        sample_ids, prompt_ids, texts, responses, response_ids = (rollouts[column] for column in COLUMNS)
        samples = join_prompts(sample_ids, prompt_ids, texts, responses, response_ids, prompts)
        scratch = stage.scratch(paths.prompts, paths.rollouts)
        pool = cache(lambda: opened.enter_context(stage.pool(stage.settings.compute)))  # for a reward model alone
        scores = score_samples(reward, samples, scratch, pool)
        correct = correct_of(reward, scores)
        columns = {"sample_id": samples.sample_ids, "correct": correct or pa.nulls(len(samples), pa.bool_()), **scores}
        REWARDS.write(pa.table(columns), paths.rewards)
        mean = float(np.mean(scores["score"]))
        numbers = {"objective/scores": mean, "objective/scores_std": float(np.std(scores["score"]))}
        if correct is not None:
            numbers["objective/correct"] = float(np.mean(correct))
        text = f"{len(samples)} sampled answers to training prompts, mean score {mean:+.3f}"
        stage.done(text, numbers | component_means(reward, scores))
