"""Stage `update`: the PPO update of the parent's policy on this round's samples."""

from ppo_pipeline.compute.machine import set_up
from ppo_pipeline.maths.schedule import learning_rate_factor
from ppo_pipeline.models.acceleration import accelerate_policy
from ppo_pipeline.models.checkpoint import load_checkpoint, save_checkpoint
from ppo_pipeline.models.packed import can_pack
from ppo_pipeline.project.stage_run import stage_run
from ppo_pipeline.settings.stage_settings import UpdateSettings
from ppo_pipeline.tables.advantages import ADVANTAGES
from ppo_pipeline.tables.controllers import Controllers
from ppo_pipeline.tables.reference import REFERENCE
from ppo_pipeline.tables.rollouts import ROLLOUTS
from ppo_pipeline.tables.schema import same_order
from ppo_pipeline.training.data import sampled
from ppo_pipeline.training.loss_inputs import loss_inputs_of
from ppo_pipeline.training.ppo import PPO
from ppo_pipeline.training.round_update import ppo_of, state_after


def run(name: str) -> None:
    """Make epochs x minibatches optimizer steps, and write the new checkpoint."""
    with stage_run(UpdateSettings, name) as stage:
        settings, paths, s = stage.settings, stage.paths, stage.settings.update
        rollouts = ROLLOUTS.read(paths.rollouts, ["prompt_ids", "response_ids", "rollout_logprobs", "kept_mass"])
        reference = REFERENCE.read(paths.reference, ["policy_logprobs", "reference_logprobs", "values"])
        advantages = ADVANTAGES.read(paths.advantages, ["advantages", "returns"])
        controllers = Controllers.read(paths.controllers)
        same_order(rollouts, reference, f"{paths.rollouts} and {paths.reference}")
        same_order(rollouts, advantages, f"{paths.rollouts} and {paths.advantages}")
        targets = loss_inputs_of(rollouts, reference, advantages, s)
        factor = learning_rate_factor(settings.depth, s.lr_schedule, s.warmup_rounds, s.schedule_rounds)
        machine = stage.on(set_up(settings.compute))
        parent = (paths.base, paths.parent_policy, paths.parent_trainer)
        policy, state = load_checkpoint(*parent, *machine)
        accelerate_policy(policy)
        tables = (paths.rollouts, paths.reference, paths.advantages, paths.controllers)
        scratch = stage.scratch(paths.settings("update"), *parent, *tables)
        ppo = ppo_of(policy, state, settings, factor, machine.dtype)
        data = sampled(rollouts, can_pack(policy.model), settings.share_prefix)
        with stage.progress(s.epochs * rollouts.num_rows) as counter:
            ppo.on_metrics = lambda means: counter.step(state.optimizer_step + ppo.steps, means | {"lr": s.lr * factor})
            ppo.run(
                data, targets, (settings.seed, name),
                lambda samples, tokens: counter.advance(samples, tokens) if tokens else counter.skip(samples),
                scratch.part("steps"),
            )  # fmt: skip
        stage.record["padding_share"] = ppo.padding.share
        after = state_after(ppo, state, controllers, targets.returns is not None)
        save_checkpoint(policy, after, paths.parent_policy, paths.policy, paths.trainer)
        numbers = {**ppo.metrics(), "lr": s.lr * factor}
        stage.done(text_of(ppo, numbers, counter.seconds), numbers)


def text_of(ppo: PPO, numbers: dict[str, float], seconds: float) -> str:
    """Return the line of result."""
    texts = [f"{ppo.steps} steps in {seconds:.1f} s"]
    for text, name in (("approxkl", "policy/approxkl"), ("clipped", "policy/clipfrac"), ("value loss", "loss/value")):
        if name in numbers:
            texts.append(f"{text} {numbers[name]:.4f}")
    return ", ".join([*texts, "ended by target_kl"] if ppo.stopped else texts)
