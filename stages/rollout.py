"""Stage `rollout`: sample responses to this round's prompts from the parent's policy."""

import pyarrow as pa

from ppo_pipeline.models.loading import load_tokenizer, vocabulary_of
from ppo_pipeline.observe.progress import result
from ppo_pipeline.project.stage_run import stage_run
from ppo_pipeline.prompts.rendering import check_prompts, render_all
from ppo_pipeline.sampling.generate import Sampling
from ppo_pipeline.sampling.request import Request
from ppo_pipeline.sampling.response import length_metrics
from ppo_pipeline.sampling.shards import SampleWork, generate_in_shards
from ppo_pipeline.sampling.streams import uniforms
from ppo_pipeline.sampling.truncation import Truncation
from ppo_pipeline.settings.stage_settings import RolloutSettings
from ppo_pipeline.tables.prompt_scores import PROMPT_SCORES
from ppo_pipeline.tables.prompts import PROMPTS
from ppo_pipeline.tables.rollouts import ROLLOUTS
from ppo_pipeline.training.round_prompts import round_prompts


def run(name: str) -> None:
    """Sample, and write rollouts.parquet."""
    with stage_run(RolloutSettings, name) as stage:
        settings, paths, s = stage.settings, stage.paths, stage.settings.rollout
        prompts = PROMPTS.read(paths.prompts)
        memory = PROMPT_SCORES.read(paths.parent_prompt_scores)
        chosen = round_prompts(prompts, s.prompts_per_round, settings.depth, settings.seed, s.prompt_choice, memory)
        tokenizer = load_tokenizer(paths.base)
        how = {**settings.shown, "limit": s.max_prompt_tokens, "vocabulary": vocabulary_of(paths.base)}
        if settings.depth == 1:
            check_prompts(tokenizer, prompts, stage=stage.label, **how)
        prompt_ids = chosen.column("prompt_id").to_pylist()
        rendered = render_all(tokenizer, prompt_ids, chosen.column("messages").to_pylist(), **how)
        samples = [(p, k) for p in range(len(prompt_ids)) for k in range(s.samples_per_prompt)]
        sample_ids = [f"{name}-{prompt_ids[p]}-{k}" for p, k in samples]
        requests = [
            Request(rendered[p][1], None if s.greedy else uniforms(settings.seed, sample_id, s.max_new_tokens))
            for (p, _), sample_id in zip(samples, sample_ids, strict=True)
        ]
        sampling = Sampling(
            s.max_new_tokens, s.batch_size, s.temperature, Truncation(s.top_k, s.top_p, s.min_p), tuple(s.stop_tokens),
            settings.compute.batch_invariant, s.max_prompt_tokens, settings.vllm,
        )  # fmt: skip
        with stage.pool(settings.compute, sampling.gpus) as pool:
            if not pool.open(SampleWork(paths.base, paths.parent_policy, sampling, s.engine)) and settings.depth == 1:
                result(stage.label, "no end token, so each response is cut (rollout.stop_tokens)")
            inputs = (paths.base, paths.parent_policy, paths.prompts, paths.parent_prompt_scores)
            scratch = stage.scratch(paths.settings("rollout"), *inputs)
            with stage.progress(len(requests), "samples", at_once=s.batch_size) as counter:
                responses = generate_in_shards(pool, requests, s.shard_samples, counter, scratch.part("responses"))
        stage.record["tokens"] = counter.tokens
        table = {
            "sample_id": sample_ids,
            "prompt_id": [prompt_ids[p] for p, _ in samples],
            "sample_index": [k for _, k in samples],
            "prompt_text": [rendered[p][0] for p, _ in samples],
            "response_text": [c.text(tokenizer) for c in responses],
            "prompt_ids": [rendered[p][1] for p, _ in samples],
            "response_ids": [c.ids for c in responses],
            "rollout_logprobs": [c.logprobs for c in responses],
            "kept_mass": [c.kept_mass for c in responses],
            "finish_reason": [c.finish_reason for c in responses],
        }
        ROLLOUTS.write(pa.table(table), paths.rollouts)
        speed = f"{counter.tokens:,} tokens in {counter.seconds:.1f} s ({counter.tokens_per_second:,.0f} tokens/s)"
        numbers = {f"val/{what}": number for what, number in length_metrics(responses).items()}
        stage.done(f"{len(requests)} samples, {speed}", numbers)
