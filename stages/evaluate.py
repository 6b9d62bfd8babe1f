"""Stage `evaluate`: greedy answers to held-out prompts, scored."""

from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ppo_pipeline.compute.machine import machine_numbers, set_up
from ppo_pipeline.models.loading import load_tokenizer, stop_ids_of, vocabulary_of
from ppo_pipeline.observe.progress import progress, result
from ppo_pipeline.observe.run_record import run_record
from ppo_pipeline.project.stage_command import StageCommand
from ppo_pipeline.prompts.rendering import render_all
from ppo_pipeline.resume.scratch import Scratch
from ppo_pipeline.rewards.scoring import check_prompts, join_prompts, score_samples
from ppo_pipeline.sampling.batch_invariant import load_sampler
from ppo_pipeline.sampling.decoder import Request
from ppo_pipeline.settings.stage_settings import EvaluateSettings, read_settings
from ppo_pipeline.storage.files import write_json
from ppo_pipeline.tables.evaluation import EVALUATION
from ppo_pipeline.tables.prompts import PROMPTS


@click.command("evaluate", cls=StageCommand)
@click.option("--settings", "settings_path", type=click.Path(path_type=Path), required=True)
@click.option("--base", type=click.Path(path_type=Path), required=True)
@click.option("--policy", type=click.Path(path_type=Path), required=True)
@click.option("--prompts", "prompts_path", type=click.Path(path_type=Path), required=True)
@click.option("--eval", "target", type=click.Path(path_type=Path), required=True)
@click.option("--metrics", type=click.Path(path_type=Path), required=True)
def main(settings_path: Path, base: Path, policy: Path, prompts_path: Path, target: Path, metrics: Path) -> None:
    """Answer the held-out prompts greedily, score the answers, and write eval.parquet."""
    settings = read_settings(EvaluateSettings, settings_path)
    s = settings.evaluate
    prompts = PROMPTS.read(prompts_path)
    heldout = prompts.filter(pc.equal(prompts.column("split"), "heldout"))
    heldout = heldout.slice(0, s.max_prompts or None)
    check_prompts(settings.reward, heldout)
    prompt_ids = heldout.column("prompt_id").to_pylist()
    tokenizer = load_tokenizer(base)
    rendered = render_all(
        tokenizer,
        prompt_ids,
        heldout.column("messages").to_pylist(),
        settings.chat_template,
        settings.max_prompt_tokens,
        date=settings.date,
        special_tokens=settings.special_tokens,
        vocabulary=vocabulary_of(base),
    )
    texts = [text for text, _ in rendered]
    with run_record("evaluate", settings.round) as record:
        device, dtype = set_up(settings.compute)
        record |= {"device": str(device), "dtype": str(dtype).removeprefix("torch.")}
        model, decoder_class = load_sampler(base, policy, device, dtype, settings.compute.batch_invariant)
        machine = (device, dtype, *machine_numbers(), settings.model_dump_json(exclude={"reward"}))
        scratch = Scratch("evaluate", settings.round, (base, policy, prompts_path), *machine)
        decoder = decoder_class(
            model, stop_ids_of(model, tokenizer, settings.stop_tokens), s.max_new_tokens, 1.0, s.batch_size
        )
        with progress(len(prompt_ids), f"evaluate {settings.round}") as counter:
            completions = decoder.decode(
                [Request(ids, None) for _, ids in rendered],
                lambda tokens, done: counter.advance(done, tokens) if tokens else counter.skip(done),
                scratch.part("answers"),
            )
        record["tokens_per_second"] = round(counter.tokens / counter.seconds, 1)
    answers = [c.text(tokenizer) for c in completions]
    response_ids = [c.ids for c in completions]
    samples = join_prompts(prompt_ids, prompt_ids, texts, answers, response_ids, prompts)
    scores = score_samples(settings.reward, samples, scratch)
    table = pa.table(
        {
            "prompt_id": prompt_ids,
            "prompt_text": texts,
            "response_text": answers,
            "response_ids": pa.array(response_ids, pa.list_(pa.int32())),
            "finish_reason": pa.array([c.finish_reason for c in completions], pa.string()),
            **scores,
        }
    )
    EVALUATION.write(table, target)
    numbers = {}
    if prompt_ids:
        numbers["eval/scores"] = float(np.mean(scores["score"]))
        for name in scores:
            if name != "score":
                numbers[f"eval/{name}"] = float(np.mean(scores[name]))
        numbers["eval/response_length"] = float(np.mean([len(c.ids) for c in completions]))
        numbers["eval/finished"] = float(np.mean([c.finish_reason == "stop" for c in completions]))
    write_json(metrics, numbers)
    scratch.finish()
    score = f"mean score {numbers['eval/scores']:+.3f}" if numbers else "no held-out prompt"
    result(f"evaluate {settings.round}", f"{len(prompt_ids)} answers in {counter.seconds:.1f} s, {score}", numbers)


if __name__ == "__main__":
    main()
