"""Stage `update`: the PPO update of the parent's policy on this round's samples."""

from pathlib import Path

import click
import pyarrow as pa

from ppo_pipeline.compute.machine import machine_numbers, set_up
from ppo_pipeline.maths.schedule import learning_rate_factor
from ppo_pipeline.models.acceleration import accelerate_policy
from ppo_pipeline.models.checkpoint import TrainerState, load_checkpoint, save_checkpoint
from ppo_pipeline.models.end_to_end import can_lay_end_to_end
from ppo_pipeline.observe.progress import progress, result
from ppo_pipeline.observe.run_record import run_record
from ppo_pipeline.project.stage_command import StageCommand
from ppo_pipeline.resume.scratch import Scratch
from ppo_pipeline.settings.sections import Update
from ppo_pipeline.settings.stage_settings import UpdateSettings, read_settings
from ppo_pipeline.storage.files import write_json
from ppo_pipeline.tables.advantages import ADVANTAGES
from ppo_pipeline.tables.contract import same_order
from ppo_pipeline.tables.controllers import Controllers
from ppo_pipeline.tables.reference import REFERENCE
from ppo_pipeline.tables.rollouts import ROLLOUTS
from ppo_pipeline.training.data import sampled, split
from ppo_pipeline.training.optimizer import make_optimizer, moments_of
from ppo_pipeline.training.ppo import PPO, loss_scaler
from ppo_pipeline.training.targets import Targets, sampling_weights


@click.command("update", cls=StageCommand)
@click.option("--settings", "settings_path", type=click.Path(path_type=Path), required=True)
@click.option("--base", type=click.Path(path_type=Path), required=True)
@click.option("--parent-policy", type=click.Path(path_type=Path), required=True)
@click.option("--parent-trainer", type=click.Path(path_type=Path), required=True)
@click.option("--rollouts", "rollouts_path", type=click.Path(path_type=Path), required=True)
@click.option("--reference", "reference_path", type=click.Path(path_type=Path), required=True)
@click.option("--advantages", "advantages_path", type=click.Path(path_type=Path), required=True)
@click.option("--controllers", "controllers_path", type=click.Path(path_type=Path), required=True)
@click.option("--policy", "policy_folder", type=click.Path(path_type=Path), required=True)
@click.option("--trainer", "trainer_folder", type=click.Path(path_type=Path), required=True)
@click.option("--metrics", type=click.Path(path_type=Path), required=True)
def main(
    settings_path: Path, base: Path, parent_policy: Path, parent_trainer: Path, rollouts_path: Path,
    reference_path: Path, advantages_path: Path, controllers_path: Path, policy_folder: Path, trainer_folder: Path,
    metrics: Path,
) -> None:  # fmt: skip
    """Make epochs x minibatches optimizer steps, and write the new checkpoint."""
    settings = read_settings(UpdateSettings, settings_path)
    s = settings.update
    rollouts = ROLLOUTS.read(rollouts_path, ["prompt_ids", "response_ids", "rollout_logprobs", "kept_mass"])
    reference = REFERENCE.read(reference_path, ["policy_logprobs", "reference_logprobs", "values"])
    advantages = ADVANTAGES.read(advantages_path, ["advantages", "returns"])
    controllers = Controllers.read(controllers_path)
    same_order(rollouts, reference, f"{rollouts_path} and {reference_path}")
    same_order(rollouts, advantages, f"{rollouts_path} and {advantages_path}")
    targets = targets_of(rollouts, reference, advantages, s)
    factor = learning_rate_factor(settings.depth, s.lr_schedule, s.warmup_rounds, s.schedule_rounds)
    with run_record("update", settings.round) as record:
        device, dtype = set_up(settings.compute)
        record |= {"device": str(device), "dtype": str(dtype).removeprefix("torch.")}
        policy, state = load_checkpoint(base, parent_policy, parent_trainer, device, dtype)
        accelerate_policy(policy)
        inputs = (settings_path, base, parent_policy, parent_trainer, rollouts_path, reference_path, advantages_path,
                  controllers_path)  # fmt: skip
        scratch = Scratch("update", settings.round, inputs, device, dtype, *machine_numbers())
        optimizer = make_optimizer(policy, s, state, factor)
        scaler = loss_scaler(device, dtype, state.loss_scale, state.loss_scale_streak)
        ppo = PPO(
            policy, optimizer, s, settings.temperature, 0, settings.max_new_tokens, scaler, settings.whiten_minibatches
        )
        if s.gradient_checkpointing:
            policy.save_memory()
        data = sampled(rollouts, can_lay_end_to_end(policy.model), settings.share_prefix)
        with progress(s.epochs * rollouts.num_rows, f"update {settings.round}") as counter:
            ppo.on_metrics = lambda means: counter.step(state.optimizer_step + ppo.steps, means | {"lr": s.lr * factor})
            ppo.run(
                data, targets, (settings.seed, settings.round),
                lambda samples, tokens: counter.advance(samples, tokens) if tokens else counter.skip(samples),
                scratch.part("steps"),
            )  # fmt: skip
        record["padding_share"] = ppo.padding.share
        record["tokens_per_second"] = round(counter.tokens / counter.seconds, 1)
        after = TrainerState(
            optimizer_step=state.optimizer_step + ppo.steps,
            value_step=state.value_step + (ppo.steps if targets.returns is not None else 0),
            loss_scale=scaler.get_scale() if scaler.is_enabled() else None,
            loss_scale_streak=scaler.state_dict()["_growth_tracker"] if scaler.is_enabled() else 0,
            controllers=controllers,
            moments=moments_of(policy, optimizer),
        )
        save_checkpoint(policy, after, parent_policy, policy_folder, trainer_folder)
    numbers = {**ppo.metrics(), "lr": s.lr * factor}
    write_json(metrics, numbers)
    scratch.finish()
    texts = [f"{ppo.steps} steps in {counter.seconds:.1f} s"]
    for text, name in (("approxkl", "policy/approxkl"), ("clipped", "policy/clipfrac"), ("value loss", "loss/value")):
        if name in numbers:
            texts.append(f"{text} {numbers[name]:.4f}")
    if ppo.stopped:
        texts.append("ended by target_kl")
    result(f"update {settings.round}", ", ".join(texts), numbers)


def targets_of(rollouts: pa.Table, reference: pa.Table, advantages: pa.Table, s: Update) -> Targets:
    """Return what the update learns from; columns that these settings do not use are None."""
    learns_values = not advantages.column("returns").null_count and not reference.column("values").null_count
    policy = split(reference, "policy_logprobs")
    weights = None
    if s.rollout_correction is not None:
        sampler, kept = split(rollouts, "rollout_logprobs"), split(rollouts, "kept_mass")
        weights = sampling_weights(policy, sampler, kept, s.rollout_correction)
    return Targets(
        policy,
        split(reference, "values") if learns_values else None,
        split(advantages, "advantages"),
        split(advantages, "returns") if learns_values else None,
        split(reference, "reference_logprobs") if s.kl_loss_coef else None,
        weights,
    )


if __name__ == "__main__":
    main()
