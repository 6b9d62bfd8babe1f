"""Stage `reward_model`: train a reward model, or an ensemble of them, on pairs of answers."""

from pathlib import Path

import numpy as np

from ppo_pipeline.compute.machine import set_up
from ppo_pipeline.models.loading import load_tokenizer
from ppo_pipeline.observe.progress import result
from ppo_pipeline.project.stage_run import named_run
from ppo_pipeline.settings.reward_model_sections import RewardModel
from ppo_pipeline.storage.files import atomic_folder
from ppo_pipeline.tables.preferences import PREFERENCES
from ppo_pipeline.tables.reward_model_eval import REWARD_MODEL_EVAL
from ppo_pipeline.training.reward_model.evaluation import evaluation_metrics, heldout_table
from ppo_pipeline.training.reward_model.model import check_model_folder
from ppo_pipeline.training.reward_model.training import Training
from ppo_pipeline.training.supervised.curve import write_curve


def run(name: str) -> None:
    """Train each member, write its folder, and say how well its rewards agree with held-out pairs."""
    with named_run("reward_model", name) as (stage, params):
        settings: RewardModel = stage.settings
        paths, model = stage.paths, Path(settings.model)
        source = paths.preferences(settings.preferences)
        check_model_folder(model, f"params.yaml: reward_model.{name}.model")
        training = Training(settings, f"reward_model.{name}", load_tokenizer(model, trusted=False))
        shown = {key: getattr(params, key) for key in ("chat_template", "date", "special_tokens")}
        training.read(PREFERENCES.read(source), source, shown)
        told_of(training, stage.label)
        training.machine = stage.on(set_up(params.compute.that_decides()))
        scratch = stage.scratch(source, model, more=(settings.model_dump_json(), shown))
        with stage.progress(training.answers, "answers") as counter, atomic_folder(paths.reward_model(name)) as folder:
            members = training.members(folder, scratch, counter)
        stage.record["training_seconds"] = round(training.seconds, 1)
        rewards = np.stack([member.rewards for member in members])
        table = heldout_table(training.pairs["heldout"], training.heldout, rewards)
        REWARD_MODEL_EVAL.write(table, paths.reward_model_eval(name))
        steps = [{"member": number, **row} for number, member in enumerate(members, 1) for row in member.curve]
        write_curve(stage.metrics.with_suffix(".csv"), steps)
        prompt_ids = table.column("prompt_id").to_pylist()
        numbers = training.numbers(members) | evaluation_metrics(rewards, prompt_ids, training.heldout)
        stage.done(text_of(numbers, settings.members, counter.seconds), numbers)


def told_of(training: Training, label: str) -> None:
    """Say what of the pairs is left out, and what they cannot teach."""
    for split, asked in (("training", training.training), ("held-out", training.heldout)):
        for rows, what in (
            (asked.skipped, "left out, longer than max_tokens"),
            (asked.alike, "with answers that are the same tokens to the model, which teach it nothing"),
        ):
            if rows:
                result(label, f"{len(rows)} {split} pairs {what}")


def text_of(numbers: dict[str, float], members: int, seconds: float) -> str:
    """Return the line of result."""
    text = f"{members} models, " if members > 1 else ""
    text += f"{numbers['train/steps']} steps in {seconds:.1f} s"
    if "eval/accuracy" not in numbers:
        return f"{text}, no held-out pair"
    error = f" (+- {numbers['eval/accuracy_se']:.3f})" if "eval/accuracy_se" in numbers else ""
    text += f", {numbers['eval/accuracy']:.3f}{error} of {numbers['eval/pairs']} held-out pairs ordered rightly"
    longer = numbers.get("eval/longer_chosen")
    return text if longer is None else f"{text}, by the longer answer {longer:.3f}"
