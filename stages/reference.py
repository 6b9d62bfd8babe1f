"""Stage `reference`: policy and reference logprobs and values of the sampled tokens, by the training forward."""

import gc
from functools import partial
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import torch

from ppo_pipeline.compute.machine import machine_numbers, set_up
from ppo_pipeline.models.acceleration import accelerate_forward, accelerate_policy
from ppo_pipeline.models.checkpoint import load_checkpoint
from ppo_pipeline.models.end_to_end import can_lay_end_to_end
from ppo_pipeline.models.loading import load_model
from ppo_pipeline.models.policy import model_logprobs
from ppo_pipeline.observe.progress import progress, result
from ppo_pipeline.observe.run_record import run_record
from ppo_pipeline.project.stage_command import StageCommand
from ppo_pipeline.resume.kept_batches import KeptBatches
from ppo_pipeline.resume.scratch import Scratch
from ppo_pipeline.settings.stage_settings import ReferenceSettings, read_settings
from ppo_pipeline.storage.files import write_json
from ppo_pipeline.tables.contract import flat, lengths, ragged
from ppo_pipeline.tables.reference import REFERENCE
from ppo_pipeline.tables.rollouts import ROLLOUTS
from ppo_pipeline.training.data import Padding, sampled


@click.command("reference", cls=StageCommand)
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
    rollouts = ROLLOUTS.read(rollouts_path, ["prompt_ids", "response_ids", "rollout_logprobs", "kept_mass"])
    response_lengths = lengths(rollouts, "response_ids")
    offsets = np.concatenate([[0], np.cumsum(response_lengths)])
    columns = {n: np.zeros(offsets[-1], np.float32) for n in ("policy", "reference", "values", "entropy")}
    bootstrap = np.zeros(len(response_lengths), np.float32)
    with run_record("reference", settings.round) as record, torch.inference_mode():
        device, dtype = set_up(settings.compute)
        record |= {"device": str(device), "dtype": str(dtype).removeprefix("torch.")}
        policy, _ = load_checkpoint(base, policy_folder, trainer_folder, device, dtype)
        accelerate_policy(policy)
        data = sampled(rollouts, can_lay_end_to_end(policy.model), settings.reference.share_prefix)
        batches = data.batches(np.arange(len(response_lengths)), settings.reference.batch_tokens)
        places = [np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in batch]) for batch in batches]
        inputs = (settings_path, base, policy_folder, trainer_folder, rollouts_path)
        scratch = Scratch("reference", settings.round, inputs, device, dtype, *machine_numbers())
        arrays = {**columns, "bootstrap": bootstrap}
        kept = KeptBatches(
            scratch.part("scores"), arrays, [*zip(batches, places, strict=True)], ("policy", "reference")
        )
        padding = Padding()
        has_values, t = policy.value_head is not None, settings.temperature
        with kept, progress(2 * len(response_lengths), f"reference {settings.round}") as counter:
            counter.skip(sum(len(batch) for done in kept.done.values() for batch in batches[:done]))
            for batch, where in kept.remaining("policy"):
                sequences = data.sequences(batch, 0, device)
                padding.add(sequences)
                scores = policy.score(sequences, t)
                columns["policy"][where] = to_numpy(scores.logprobs)
                columns["entropy"][where] = to_numpy(scores.entropy)
                if scores.values is not None and scores.bootstrap is not None:
                    columns["values"][where] = to_numpy(scores.values)
                    bootstrap[batch] = to_numpy(scores.bootstrap)
                counter.advance(len(batch), int(response_lengths[batch].sum()))
            if policy.layers:
                reference = policy.reference_logprobs
            else:  # two whole models need not be in memory at a time
                del policy
                gc.collect()  # its layers and their kernels refer to each other
                model = load_model(base, device, dtype)
                accelerate_forward(model)  # as the policy has it: the KL to itself is exactly 0
                reference = partial(model_logprobs, model)
            for batch, where in kept.remaining("reference"):
                columns["reference"][where] = to_numpy(reference(data.sequences(batch, 0, device), t))
                counter.advance(len(batch), 0)
        record["padding_share"] = padding.share
        record["tokens_per_second"] = round(counter.tokens / counter.seconds, 1)
    kind, lists, count = pa.float32(), pa.list_(pa.float32()), len(response_lengths)
    table = pa.table(
        {
            "sample_id": rollouts.column("sample_id"),
            "policy_logprobs": ragged(columns["policy"], response_lengths, kind),
            "reference_logprobs": ragged(columns["reference"], response_lengths, kind),
            "values": ragged(columns["values"], response_lengths, kind) if has_values else pa.nulls(count, lists),
            "bootstrap_value": bootstrap if has_values else pa.nulls(count, kind),
            "entropy": ragged(columns["entropy"], response_lengths, kind),
        }
    )
    REFERENCE.write(table, target)
    numbers = {"objective/entropy": float(columns["entropy"].mean(dtype=np.float64))}
    numbers |= mismatch(columns["policy"], flat(rollouts, "rollout_logprobs"), flat(rollouts, "kept_mass"))
    write_json(metrics, numbers)
    scratch.finish()
    result(
        f"reference {settings.round}",
        f"{counter.tokens:,} response tokens in {counter.seconds:.1f} s, sampler's logprobs differ by "
        f"{numbers['val/rollout_logprob_difference']:.4f} on average",
        numbers,
    )


def to_numpy(values: torch.Tensor) -> np.ndarray:
    """Return a tensor's numbers as fp32."""
    numbers: np.ndarray = values.float().cpu().numpy()
    return numbers


def mismatch(policy: np.ndarray, sampler: np.ndarray, kept_mass: np.ndarray) -> dict[str, float]:
    """Return how far the sampler's logprobs are from the training forward's, and what that costs.

    val/rollout_ess is the effective sample size of the tokens as draws from the policy, as a share of their
    number: (sum w)^2 / (n sum w^2), w = policy probability over that of the draw. Truncated sampling lowers it too.
    """
    drift = np.abs(sampler.astype(np.float64) - policy)
    weights = np.exp(policy.astype(np.float64) - sampler + np.log(kept_mass.astype(np.float64)))
    return {
        "val/rollout_logprob_difference": float(drift.mean()),
        "val/rollout_logprob_difference_p95": float(np.quantile(drift, 0.95)),
        "val/rollout_logprob_difference_max": float(drift.max()),
        "val/rollout_ess": float(weights.sum() ** 2 / (len(weights) * (weights**2).sum())),
    }


if __name__ == "__main__":
    main()
