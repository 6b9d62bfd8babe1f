"""Stage `rollout`: sample responses to this round's prompts from the parent's policy."""

from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa

from ppo_pipeline.compute.machine import machine_numbers, set_up
from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models.loading import load_tokenizer, stop_ids_of, vocabulary_of
from ppo_pipeline.observe.progress import progress, result
from ppo_pipeline.observe.run_record import run_record
from ppo_pipeline.project.stage_command import StageCommand
from ppo_pipeline.prompts.rendering import check_prompts, render_all
from ppo_pipeline.resume.scratch import Scratch
from ppo_pipeline.sampling.batch_invariant import load_sampler
from ppo_pipeline.sampling.completion import Completion
from ppo_pipeline.sampling.decoder import Request
from ppo_pipeline.sampling.streams import uniforms
from ppo_pipeline.sampling.truncation import Truncation
from ppo_pipeline.settings.stage_settings import RolloutSettings, read_settings
from ppo_pipeline.storage.files import write_json
from ppo_pipeline.tables.prompts import PROMPTS
from ppo_pipeline.tables.rollouts import ROLLOUTS
from ppo_pipeline.training.batches import prompts_of_round


@click.command("rollout", cls=StageCommand)
@click.option("--settings", "settings_path", type=click.Path(path_type=Path), required=True)
@click.option("--base", type=click.Path(path_type=Path), required=True)
@click.option("--policy", type=click.Path(path_type=Path), required=True)
@click.option("--prompts", "prompts_path", type=click.Path(path_type=Path), required=True)
@click.option("--rollouts", "target", type=click.Path(path_type=Path), required=True)
@click.option("--metrics", type=click.Path(path_type=Path), required=True)
def main(settings_path: Path, base: Path, policy: Path, prompts_path: Path, target: Path, metrics: Path) -> None:
    """Sample, and write rollouts.parquet."""
    settings = read_settings(RolloutSettings, settings_path)
    s = settings.rollout
    prompts = PROMPTS.read(prompts_path)
    chosen = choose_prompts(prompts, settings)
    tokenizer = load_tokenizer(base)
    how: dict[str, Any] = {
        "chat_template": settings.chat_template,
        "limit": s.max_prompt_tokens,
        "date": settings.date,
        "special_tokens": settings.special_tokens,
        "vocabulary": vocabulary_of(base),
    }
    if settings.depth == 1:
        check_prompts(tokenizer, prompts, stage=f"rollout {settings.round}", **how)
    prompt_ids = chosen.column("prompt_id").to_pylist()
    rendered = render_all(tokenizer, prompt_ids, chosen.column("messages").to_pylist(), **how)
    samples = [(p, k) for p in range(len(prompt_ids)) for k in range(s.samples_per_prompt)]
    sample_ids = [f"{settings.round}-{prompt_ids[p]}-{k}" for p, k in samples]
    requests = [
        Request(rendered[p][1], None if s.greedy else uniforms(settings.seed, sample_id, s.max_new_tokens))
        for (p, _), sample_id in zip(samples, sample_ids, strict=True)
    ]
    with run_record("rollout", settings.round) as record:
        device, dtype = set_up(settings.compute)
        record |= {"device": str(device), "dtype": str(dtype).removeprefix("torch.")}
        model, decoder_class = load_sampler(base, policy, device, dtype, settings.compute.batch_invariant)
        inputs = (settings_path, base, policy, prompts_path)
        scratch = Scratch("rollout", settings.round, inputs, device, dtype, *machine_numbers())
        stop_ids = stop_ids_of(model, tokenizer, s.stop_tokens)
        if not stop_ids and settings.depth == 1:
            result(f"rollout {settings.round}", "no end token, so each response is cut (rollout.stop_tokens)")
        truncation = Truncation(s.top_k, s.top_p, s.min_p)
        decoder = decoder_class(model, stop_ids, s.max_new_tokens, s.temperature, s.batch_size, truncation)
        with progress(len(requests), f"rollout {settings.round}") as counter:
            completions = decoder.decode(
                requests,
                lambda tokens, done: counter.advance(done, tokens) if tokens else counter.skip(done),
                scratch.part("responses"),
            )
        record["tokens"] = counter.tokens
        record["tokens_per_second"] = round(counter.tokens / counter.seconds, 1)
    table = pa.table(
        {
            "sample_id": sample_ids,
            "prompt_id": [prompt_ids[p] for p, _ in samples],
            "sample_index": [k for _, k in samples],
            "prompt_text": [rendered[p][0] for p, _ in samples],
            "response_text": [c.text(tokenizer) for c in completions],
            "prompt_ids": [rendered[p][1] for p, _ in samples],
            "response_ids": [c.ids for c in completions],
            "rollout_logprobs": [c.logprobs for c in completions],
            "kept_mass": [c.kept_mass for c in completions],
            "finish_reason": [c.finish_reason for c in completions],
        }
    )
    ROLLOUTS.write(table, target)
    numbers = rollout_metrics(completions)
    write_json(metrics, numbers)
    scratch.finish()
    result(
        f"rollout {settings.round}",
        f"{len(requests)} samples, {counter.tokens:,} tokens in {counter.seconds:.1f} s "
        f"({counter.tokens / counter.seconds:,.0f} tokens/s)",
        numbers,
    )


def choose_prompts(table: pa.Table, settings: RolloutSettings) -> pa.Table:
    """Return the training prompts of this round."""
    train = table.filter(pa.compute.equal(table.column("split"), "train"))
    wanted = settings.rollout.prompts_per_round
    if wanted > train.num_rows:
        raise PipelineError(
            f"params.yaml: rollout.prompts_per_round: {wanted}, but there are {train.num_rows} training prompts; "
            "lower it, or raise samples_per_prompt."
        )
    return train.take(pa.array(prompts_of_round(train.num_rows, wanted, settings.depth, settings.seed)))


def rollout_metrics(completions: list[Completion]) -> dict[str, Any]:
    """Return length and ending statistics."""
    lengths = np.array([len(c.ids) for c in completions])
    return {
        "val/response_length": float(lengths.mean()),
        "val/response_length_max": int(lengths.max()),
        "val/finished": float(np.mean([c.finish_reason == "stop" for c in completions])),
    }


if __name__ == "__main__":
    main()
