"""Stage `sft`: supervised fine-tuning of the base model on answers, written as a plain model."""

from pathlib import Path

from ppo_pipeline.compute.machine import set_up
from ppo_pipeline.models.loading import load_model, read_source
from ppo_pipeline.models.merged import write_merged
from ppo_pipeline.project.stage_run import named_run
from ppo_pipeline.prompts.demonstrations import read_demonstrations
from ppo_pipeline.training.supervised.curve import write_curve
from ppo_pipeline.training.supervised.sft import fit, rows_to_learn
from ppo_pipeline.training.supervised.tuning import trainable


def run(name: str) -> None:
    """Learn the answers of an entry's source; write data/sft/<name> and the curve of its steps."""
    with named_run("sft", name) as (stage, params):
        s, base, section = stage.settings, stage.paths.base, f"sft.{name}"
        read = read_demonstrations(Path(s.source), s.heldout_fraction, params.prompts.system, f"{section}.source")
        machine = stage.on(set_up(params.compute.that_decides()))
        model = load_model(base, *machine)
        rows, skipped = rows_to_learn(read, base, model, params, name)
        policy, left_out = trainable(model, s, section)
        shown = params.prompts.model_dump_json(include={"system", "chat_template", "date", "special_tokens"})
        scratch = stage.scratch(base, Path(s.source), more=(s.model_dump_json(), shown, params.stop_tokens))
        with stage.progress(s.epochs * len(rows["train"]) + 2 * len(rows["heldout"]), "rows") as counter:
            fitted = fit(policy, rows, s, name, machine, scratch, counter)
        source = read_source(base)
        trust = source.get("trust_remote_code", False)
        of = {"model": stage.paths.sft(name).as_posix(), "revision": None, "trust_remote_code": trust, "base": source}
        write_merged(base, policy, of, stage.paths.sft(name))
        write_curve(stage.metrics.with_suffix(".csv"), fitted.curve)
        n = fitted.numbers
        text = f"{n['train/rows']} rows, {n['train/steps']} steps, loss {n['train/loss']:.4f}"
        if "eval/loss" in n:
            text += f", held out {n['eval/loss_before']:.4f} to {n['eval/loss']:.4f}"
        if skipped:
            text += f"; {skipped} rows longer than max_tokens left out"
        if left_out:
            text += f"; none learnt on {', '.join(left_out[:3])}"
        stage.done(text, n | {"train/rows_skipped": skipped})
