"""Stage `evaluate`: answers to held-out prompts, greedy ones and as many sampled ones as are asked for, scored."""

from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ppo_pipeline.models.averaging import averaged
from ppo_pipeline.models.loading import load_tokenizer, vocabulary_of
from ppo_pipeline.project.stage_run import stage_run
from ppo_pipeline.prompts.rendering import render_all
from ppo_pipeline.rewards.samples import Samples
from ppo_pipeline.rewards.scoring import check_prompts, correct_of, join_prompts, score_samples, votes_of
from ppo_pipeline.sampling.generate import Sampling
from ppo_pipeline.sampling.request import Request
from ppo_pipeline.sampling.response import Response
from ppo_pipeline.sampling.shards import SampleWork, generate_in_shards
from ppo_pipeline.sampling.streams import uniforms
from ppo_pipeline.sampling.truncation import Truncation
from ppo_pipeline.settings.params import ROOT
from ppo_pipeline.settings.stage_settings import EvaluateSettings
from ppo_pipeline.tables.evaluation import EVALUATION, EVALUATION_SAMPLES
from ppo_pipeline.tables.heldout import by_prompt, heldout_metrics
from ppo_pipeline.tables.prompts import PROMPTS


class Asked(NamedTuple):
    """Answers that are asked for: their names, their prompts' ids and texts, and the requests."""

    names: list[str]
    prompt_ids: list[str]
    prompt_texts: list[str]
    requests: list[Request]


def run(name: str) -> None:
    """Answer the held-out prompts, score the answers, and write eval.parquet and eval_samples.parquet."""
    with stage_run(EvaluateSettings, name) as stage:
        settings, paths, s = stage.settings, stage.paths, stage.settings.evaluate
        prompts = PROMPTS.read(paths.prompts)
        heldout = prompts.filter(pc.equal(prompts.column("split"), "heldout")).slice(0, s.max_prompts or None)
        check_prompts(settings.reward, heldout)
        prompt_ids = heldout.column("prompt_id").to_pylist()
        tokenizer = load_tokenizer(paths.base)
        how = {**settings.shown, "limit": settings.max_prompt_tokens, "vocabulary": vocabulary_of(paths.base)}
        rendered = render_all(tokenizer, prompt_ids, heldout.column("messages").to_pylist(), **how)
        texts = [text for text, _ in rendered]
        greedy = Asked(prompt_ids, prompt_ids, texts, [Request(ids, None) for _, ids in rendered])
        sampled = asked_samples(settings, prompt_ids, rendered)
        sampling = sampling_of(settings)
        asked = settings.model_dump_json(exclude={"reward"})  # other rewards ask for no other answers
        with stage.pool(settings.compute, sampling.gpus) as pool:
            pool.open(SampleWork(paths.base, paths.policy, sampling, s.engine))
            mean = name != ROOT and averaged(paths.average)
            inputs = (paths.base, paths.policy, paths.prompts, *([paths.average] if mean else []))
            scratch = stage.scratch(*inputs, more=(asked,))
            count = (1 + mean) * len(greedy.requests) + len(sampled.requests)
            with stage.progress(count, "answers", at_once=s.batch_size) as counter:
                answers = generate_in_shards(pool, greedy.requests, s.shard_samples, counter, scratch.part("answers"))
                drawn = generate_in_shards(pool, sampled.requests, s.shard_samples, counter, scratch.part("sampled"))
                by_mean: list[Response] = []
                if mean:  # the mean of the last rounds' policies
                    pool.open(SampleWork(paths.base, paths.average, sampling, s.engine))
                    part = scratch.part("average")
                    by_mean = generate_in_shards(pool, greedy.requests, s.shard_samples, counter, part)

            def scored(asked: Asked, responses: list[Response], part: str = "") -> dict[str, Any]:
                columns, samples = columns_of(asked, responses, tokenizer, prompts)
                scores = score_samples(settings.reward, samples, scratch, lambda: pool, part)
                correct = correct_of(settings.reward, scores)
                return {**columns, "correct": correct or pa.nulls(len(samples), pa.bool_()), **scores}

            table = EVALUATION.checked(pa.table(scored(greedy, answers)), str(paths.evaluation))
            samples = EVALUATION_SAMPLES.arrow.empty_table()
            if drawn:  # without any no reward model is loaded once more
                of_samples = {"sample_id": sampled.names, **scored(sampled, drawn, "sampled-")}
                of_samples["sample_index"] = [n % s.samples_per_prompt for n in range(len(drawn))]
                of_samples["vote"] = votes_of(settings.reward, of_samples["response_text"])
                samples = EVALUATION_SAMPLES.checked(pa.table(of_samples), str(paths.evaluation_samples))
            of_mean: dict[str, float] = {}
            if by_mean:
                answered = pa.table(scored(greedy, by_mean, "average-"))
                of_mean = heldout_metrics(by_prompt(EVALUATION.checked(answered, str(paths.average))))
        EVALUATION.write(table, paths.evaluation)
        EVALUATION_SAMPLES.write(samples, paths.evaluation_samples)
        numbers = heldout_metrics(by_prompt(table, samples))
        numbers |= {metric.replace("eval/", "eval_average/"): number for metric, number in of_mean.items()}
        more = f" and {len(drawn)} sampled" if drawn else ""
        text = f"{len(answers)} greedy{more} answers to held-out prompts in {counter.seconds:.1f} s, {told(numbers)}"
        if of_mean:
            text += f", of the averaged policy {of_mean['eval/scores']:+.3f}"
        stage.done(text, numbers)


def asked_samples(settings: EvaluateSettings, prompt_ids: list[str], rendered: list[tuple[str, list[int]]]) -> Asked:
    """Return the sampled answers that are asked for, a prompt's one behind the other.

    Their names, and so their random numbers, are the same in each round: rounds differ by less luck that way.
    """
    how, count = settings.sampling, settings.evaluate.samples_per_prompt
    if how is None:
        return Asked([], [], [], [])
    places = [(p, k) for p in range(len(prompt_ids)) for k in range(count)]
    names = [f"eval-{prompt_ids[p]}-{k}" for p, k in places]
    drawn = [uniforms(how.seed, name, settings.evaluate.max_new_tokens) for name in names]
    requests = [Request(rendered[p][1], numbers) for (p, _), numbers in zip(places, drawn, strict=True)]
    return Asked(names, [prompt_ids[p] for p, _ in places], [rendered[p][0] for p, _ in places], requests)


def sampling_of(settings: EvaluateSettings) -> Sampling:
    """Return how answers are drawn; one engine gives both kinds, and greedy ones take no heed of the temperature."""
    s, how = settings.evaluate, settings.sampling
    temperature, truncation = (
        (how.temperature, Truncation(how.top_k, how.top_p, how.min_p)) if how else (1.0, Truncation())
    )
    return Sampling(
        s.max_new_tokens, s.batch_size, temperature, truncation, tuple(settings.stop_tokens),
        settings.compute.batch_invariant, settings.max_prompt_tokens, settings.vllm,
    )  # fmt: skip


def columns_of(
    asked: Asked, responses: list[Response], tokenizer: Any, prompts: pa.Table
) -> tuple[dict[str, Any], Samples]:
    """Return what both tables say of answers but their scores, and the same as samples to score."""
    texts, ids = [c.text(tokenizer) for c in responses], [c.ids for c in responses]
    columns = {
        "prompt_id": asked.prompt_ids,
        "prompt_text": asked.prompt_texts,
        "response_text": texts,
        "response_ids": pa.array(ids, pa.list_(pa.int32())),
        "finish_reason": pa.array([c.finish_reason for c in responses], pa.string()),
    }
    return columns, join_prompts(asked.names, asked.prompt_ids, asked.prompt_texts, texts, ids, prompts)


def told(numbers: dict[str, float]) -> str:
    """Return the score and the share of right answers, each with its standard error, and those of sampled answers."""
    names = {"scores": "mean score {:+.3f}", "correct": "right {:.3f}", "sampled_scores": "sampled {:+.3f}"}
    parts = []
    for name, text in names.items():
        if f"eval/{name}" in numbers:
            error = numbers.get(f"eval/{name}_se")
            parts.append(text.format(numbers[f"eval/{name}"]) + ("" if error is None else f" (+- {error:.3f})"))
    return ", ".join(parts) or "no held-out prompt"
