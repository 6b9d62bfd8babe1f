"""Stage `update`: the PPO update of the parent's policy on this round's samples."""

from ppo_pipeline.project.stage_run import stage_run
from ppo_pipeline.project.stages import STAGES
from ppo_pipeline.settings.stage_settings import UpdateSettings
from ppo_pipeline.tables.rollouts import ROLLOUTS
from ppo_pipeline.training.critic_warmup import settings_of_round
from ppo_pipeline.training.round_update import RoundUpdate, Updated


def run(name: str) -> None:
    """Make epochs x minibatches optimizer steps, and write the new checkpoint."""
    with stage_run(UpdateSettings, name) as stage:
        settings = stage.settings
        samples = ROLLOUTS.read(stage.paths.rollouts, ["sample_id"]).num_rows
        work = RoundUpdate(settings, stage.paths, STAGES["update"].less_memory)
        planned = settings_of_round(settings)
        unit = "samples" if planned.epochs == 1 else f"samples in {planned.epochs} epochs"
        with stage.progress(planned.epochs * samples, unit) as counter:
            found = stage.together(settings.compute, work, counter)
        stage.record["padding_share"] = found.padding_share
        for worker, idle in zip(stage.record.get("workers", ()), found.idle_seconds, strict=False):
            worker["idle_seconds"] = idle
        stage.keeps(found.scratch)
        steps = f"{found.steps} of {planned.epochs * planned.minibatches} steps"
        stage.done(text_of(found, steps, counter.seconds, settings.critic_alone), found.numbers)


def text_of(found: Updated, steps: str, seconds: float, critic_alone: bool) -> str:
    """Return the line of result."""
    texts = [f"{steps}{' of the critic alone' * critic_alone} in {seconds:.1f} s"]
    shown = {
        "approxkl": "policy/approxkl", "clipped": "policy/clipfrac", "correction cut": "policy/correction_cut",
        "value loss": "loss/value",
    }  # fmt: skip
    for text, name in shown.items():
        if name in found.numbers:
            texts.append(f"{text} {found.numbers[name]:.4f}")
    return ", ".join([*texts, "stopped early by target_kl"] if found.stopped else texts)
