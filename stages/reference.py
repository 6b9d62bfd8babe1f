"""Stage `reference`: policy and reference logprobs and values of the sampled tokens, by the training forward."""

from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import torch

from ppo_pipeline.files import write_json
from ppo_pipeline.machine import set_up
from ppo_pipeline.models.checkpoint import load_policy
from ppo_pipeline.models.loading import load_model
from ppo_pipeline.params import ReferenceSettings, read_settings
from ppo_pipeline.progress import progress, result
from ppo_pipeline.run_record import run_record
from ppo_pipeline.tables.contract import flat, lengths, ragged
from ppo_pipeline.tables.reference import REFERENCE
from ppo_pipeline.tables.rollouts import ROLLOUTS
from ppo_pipeline.training.batches import by_token_budget
from ppo_pipeline.training.data import sampled


@click.command()
@click.option("--settings", "settings_path", type=click.Path(path_type=Path), required=True)
@click.option("--base", type=click.Path(path_type=Path), required=True)
@click.option("--policy", "policy_folder", type=click.Path(path_type=Path), required=True)
@click.option("--trainer", "trainer_folder", type=click.Path(path_type=Path), required=True)
@click.option("--rollouts", "rollouts_path", type=click.Path(path_type=Path), required=True)
@click.option("--reference", "target", type=click.Path(path_type=Path), required=True)
@click.option("--metrics", type=click.Path(path_type=Path), required=True)
def main(
    settings_path: Path, base: Path, policy_folder: Path, trainer_folder: Path, rollouts_path: Path, target: Path,
    metrics: Path,
) -> None:  # fmt: skip
    """Score the sampled tokens under policy and base, and write reference.parquet."""
    settings = read_settings(ReferenceSettings, settings_path)
    rollouts = ROLLOUTS.read(rollouts_path, ["prompt_ids", "response_ids", "rollout_logprobs"])
    data = sampled(rollouts)
    response_lengths = lengths(rollouts, "response_ids")
    offsets = np.concatenate([[0], np.cumsum(response_lengths)])
    flat_columns = {n: np.empty(offsets[-1], np.float32) for n in ("policy", "reference", "values", "entropy")}
    bootstrap = np.empty(len(response_lengths), np.float32)
    with run_record("reference", settings.round) as record:
        device, dtype = set_up(settings.compute)
        policy, _ = load_policy(load_model(base, device, dtype), policy_folder, trainer_folder)
        batches = by_token_budget(data.total_lengths, settings.reference.batch_tokens)
        with (
            progress(len(response_lengths), f"reference {settings.round}") as counter,
            torch.inference_mode(),
        ):
            for batch in batches:
                sequences = data.sequences(batch, 0, device)
                scores = policy.score(sequences, settings.temperature)
                reference = policy.reference_logprobs(sequences, settings.temperature)
                where = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in batch])
                columns = (scores.logprobs, reference, scores.values, scores.entropy)
                for array, values in zip(flat_columns.values(), columns, strict=True):
                    array[where] = values.float().cpu().numpy()
                bootstrap[batch] = scores.bootstrap.float().cpu().numpy()
                counter.advance(len(batch), int(response_lengths[batch].sum()))
        record["tokens_per_second"] = round(counter.tokens / counter.seconds, 1)
    kind = pa.float32()
    table = pa.table(
        {
            "sample_id": rollouts.column("sample_id"),
            "policy_logprobs": ragged(flat_columns["policy"], response_lengths, kind),
            "reference_logprobs": ragged(flat_columns["reference"], response_lengths, kind),
            "values": ragged(flat_columns["values"], response_lengths, kind),
            "bootstrap_value": bootstrap,
        }
    )
    REFERENCE.write(table, target)
    drift = np.abs(flat(rollouts, "rollout_logprobs").astype(np.float64) - flat_columns["policy"])
    numbers = {
        "objective/entropy": float(flat_columns["entropy"].mean(dtype=np.float64)),
        "val/rollout_logprob_difference": float(drift.mean()),
        "val/rollout_logprob_difference_p95": float(np.quantile(drift, 0.95)),
        "val/rollout_logprob_difference_max": float(drift.max()),
    }
    write_json(metrics, numbers)
    result(
        f"reference {settings.round}",
        f"{counter.tokens:,} response tokens in {counter.seconds:.1f} s, sampler's logprobs differ by "
        f"{numbers['val/rollout_logprob_difference']:.4f} on average",
    )


if __name__ == "__main__":
    main()
