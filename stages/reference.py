"""Stage `reference`: policy and reference logprobs and values of the sampled tokens, by the training forward."""

import numpy as np
import pyarrow as pa

from ppo_pipeline.maths.mismatch import mismatch
from ppo_pipeline.project.stage_run import stage_run
from ppo_pipeline.settings.stage_settings import ReferenceSettings
from ppo_pipeline.tables.reference import REFERENCE
from ppo_pipeline.tables.rollouts import ROLLOUTS
from ppo_pipeline.tables.schema import flat, ragged
from ppo_pipeline.training.round_scores import ScoreWork, score_round


def run(name: str) -> None:
    """Score the sampled tokens under policy and base, and write reference.parquet."""
    with stage_run(ReferenceSettings, name) as stage:
        paths, s = stage.paths, stage.settings
        rollouts = ROLLOUTS.read(paths.rollouts, ["prompt_ids", "response_ids", "rollout_logprobs", "kept_mass"])
        models = (paths.base, paths.parent_policy, paths.parent_trainer)
        with stage.pool(s.compute) as pool:
            scratch = stage.scratch(paths.settings("reference"), *models, paths.rollouts)
            work = ScoreWork(*models, paths.rollouts, s.reference, s.temperature)
            with stage.progress(2 * rollouts.num_rows, "forward passes") as counter:
                found = score_round(pool, work, rollouts, counter, scratch.part("scores"))
        stage.record["padding_share"] = found.padding_share
        kind, counts = pa.float32(), found.lengths
        table = {
            "sample_id": rollouts.column("sample_id"),
            "policy_logprobs": ragged(found.policy, counts, kind),
            "reference_logprobs": ragged(found.reference, counts, kind),
            "values": ragged(found.values, counts, kind) if found.has_values else pa.nulls(len(counts), pa.list_(kind)),
            "bootstrap_value": found.bootstrap if found.has_values else pa.nulls(len(counts), kind),
            "entropy": ragged(found.entropy, counts, kind),
        }
        REFERENCE.write(pa.table(table), paths.reference)
        numbers = {"objective/entropy": float(found.entropy.mean(dtype=np.float64))}
        numbers |= mismatch(found.policy, flat(rollouts, "rollout_logprobs"), flat(rollouts, "kept_mass"))
        differ = f"sampler's logprobs differ by {numbers['val/rollout_logprob_difference']:.4f} on average"
        stage.done(f"{counter.tokens:,} response tokens in {counter.seconds:.1f} s, {differ}", numbers)
