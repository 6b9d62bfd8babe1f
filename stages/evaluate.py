"""Stage `evaluate`: greedy answers to held-out prompts, scored."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ppo_pipeline.models.loading import load_tokenizer, vocabulary_of
from ppo_pipeline.project.stage_run import stage_run
from ppo_pipeline.prompts.rendering import render_all
from ppo_pipeline.rewards.scoring import check_prompts, component_means, correct_of, join_prompts, score_samples
from ppo_pipeline.sampling.generate import Sampling
from ppo_pipeline.sampling.request import Request
from ppo_pipeline.sampling.response import length_metrics
from ppo_pipeline.sampling.shards import SampleWork, generate_in_shards
from ppo_pipeline.settings.stage_settings import EvaluateSettings
from ppo_pipeline.tables.evaluation import EVALUATION
from ppo_pipeline.tables.prompts import PROMPTS


def run(name: str) -> None:
    """Answer the held-out prompts greedily, score the answers, and write eval.parquet."""
    with stage_run(EvaluateSettings, name) as stage:
        settings, paths, s = stage.settings, stage.paths, stage.settings.evaluate
        prompts = PROMPTS.read(paths.prompts)
        heldout = prompts.filter(pc.equal(prompts.column("split"), "heldout")).slice(0, s.max_prompts or None)
        check_prompts(settings.reward, heldout)
        prompt_ids = heldout.column("prompt_id").to_pylist()
        tokenizer = load_tokenizer(paths.base)
        how = {**settings.shown, "limit": settings.max_prompt_tokens, "vocabulary": vocabulary_of(paths.base)}
        rendered = render_all(tokenizer, prompt_ids, heldout.column("messages").to_pylist(), **how)
        sampling = Sampling(
            s.max_new_tokens, s.batch_size, stop_tokens=tuple(settings.stop_tokens),
            batch_invariant=settings.compute.batch_invariant, max_prompt_tokens=settings.max_prompt_tokens,
            vllm=settings.vllm,
        )  # fmt: skip
        asked = settings.model_dump_json(exclude={"reward"})  # other rewards ask for no other answers
        requests = [Request(ids, None) for _, ids in rendered]
        with stage.pool(settings.compute, sampling.gpus) as pool:
            pool.open(SampleWork(paths.base, paths.policy, sampling, s.engine))
            scratch = stage.scratch(paths.base, paths.policy, paths.prompts, more=(asked,))
            with stage.progress(len(prompt_ids)) as counter:
                responses = generate_in_shards(pool, requests, s.shard_samples, counter, scratch.part("answers"))
            texts, answers = [text for text, _ in rendered], [c.text(tokenizer) for c in responses]
            response_ids = [c.ids for c in responses]
            samples = join_prompts(prompt_ids, prompt_ids, texts, answers, response_ids, prompts)
            scores = score_samples(settings.reward, samples, scratch, lambda: pool)
        correct = correct_of(settings.reward, scores)
        table = {
            "prompt_id": prompt_ids,
            "prompt_text": texts,
            "response_text": answers,
            "response_ids": pa.array(response_ids, pa.list_(pa.int32())),
            "finish_reason": pa.array([c.finish_reason for c in responses], pa.string()),
            "correct": correct or pa.nulls(len(prompt_ids), pa.bool_()),
            **scores,
        }
        EVALUATION.write(pa.table(table), paths.evaluation)
        numbers: dict[str, float] = {}
        if prompt_ids:
            numbers = {"eval/scores": float(np.mean(scores["score"])), **component_means(scores, "eval")}
            if correct is not None:
                numbers["eval/correct"] = float(np.mean(correct))
            lengths = length_metrics(responses)
            numbers |= {f"eval/{what}": lengths[what] for what in ("response_length", "finished")}
        score = f"mean score {numbers['eval/scores']:+.3f}" if numbers else "no held-out prompt"
        stage.done(f"{len(prompt_ids)} answers in {counter.seconds:.1f} s, {score}", numbers)
