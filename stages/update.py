"""Stage `update`: the PPO update of the parent's policy on this round's samples."""

from pathlib import Path

import click

from ppo_pipeline.files import write_json
from ppo_pipeline.machine import set_up
from ppo_pipeline.models.checkpoint import load_policy, read_adapter_config, save_policy, save_trainer
from ppo_pipeline.models.loading import load_model
from ppo_pipeline.params import UpdateSettings, read_settings
from ppo_pipeline.progress import progress, result
from ppo_pipeline.run_record import run_record
from ppo_pipeline.tables.advantages import ADVANTAGES
from ppo_pipeline.tables.contract import same_order
from ppo_pipeline.tables.reference import REFERENCE
from ppo_pipeline.tables.rollouts import ROLLOUTS
from ppo_pipeline.training.data import sampled, split
from ppo_pipeline.training.optimizer import make_optimizer, trainer_state
from ppo_pipeline.training.ppo import PPO, Targets


@click.command()
@click.option("--settings", "settings_path", type=click.Path(path_type=Path), required=True)
@click.option("--base", type=click.Path(path_type=Path), required=True)
@click.option("--parent-policy", type=click.Path(path_type=Path), required=True)
@click.option("--parent-trainer", type=click.Path(path_type=Path), required=True)
@click.option("--rollouts", "rollouts_path", type=click.Path(path_type=Path), required=True)
@click.option("--reference", "reference_path", type=click.Path(path_type=Path), required=True)
@click.option("--advantages", "advantages_path", type=click.Path(path_type=Path), required=True)
@click.option("--policy", "policy_folder", type=click.Path(path_type=Path), required=True)
@click.option("--trainer", "trainer_folder", type=click.Path(path_type=Path), required=True)
@click.option("--metrics", type=click.Path(path_type=Path), required=True)
def main(
    settings_path: Path, base: Path, parent_policy: Path, parent_trainer: Path, rollouts_path: Path,
    reference_path: Path, advantages_path: Path, policy_folder: Path, trainer_folder: Path, metrics: Path,
) -> None:  # fmt: skip
    """Make epochs x minibatches optimizer steps, and write the new checkpoint."""
    settings = read_settings(UpdateSettings, settings_path)
    s = settings.update
    rollouts = ROLLOUTS.read(rollouts_path, ["prompt_ids", "response_ids"])
    reference = REFERENCE.read(reference_path, ["policy_logprobs", "values"])
    advantages = ADVANTAGES.read(advantages_path, ["advantages", "returns"])
    same_order(rollouts, reference, f"{rollouts_path} and {reference_path}")
    same_order(rollouts, advantages, f"{rollouts_path} and {advantages_path}")
    targets = Targets(
        split(reference, "policy_logprobs"),
        split(reference, "values"),
        split(advantages, "advantages"),
        split(advantages, "returns"),
    )
    with run_record("update", settings.round) as record:
        device, dtype = set_up(settings.compute)
        policy, state = load_policy(load_model(base, device, dtype), parent_policy, parent_trainer)
        optimizer = make_optimizer(policy, s, state)
        ppo = PPO(policy, optimizer, s, settings.temperature, pad_id=0)
        data = sampled(rollouts)
        with progress(s.epochs * rollouts.num_rows, f"update {settings.round}") as counter:
            ppo.run(data, targets, (settings.seed, settings.round), counter.advance)
        record["tokens_per_second"] = round(counter.tokens / counter.seconds, 1)
    save_policy(policy, read_adapter_config(parent_policy), policy_folder)
    save_trainer(policy, trainer_state(policy, optimizer, state.optimizer_step + ppo.steps), trainer_folder)
    numbers = ppo.metrics()
    write_json(metrics, numbers)
    result(
        f"update {settings.round}",
        f"{ppo.steps} steps in {counter.seconds:.1f} s, approxkl {numbers['policy/approxkl']:.4f}, "
        f"clipped {numbers['policy/clipfrac']:.1%}, value loss {numbers['loss/value']:.3f}",
    )


if __name__ == "__main__":
    main()
