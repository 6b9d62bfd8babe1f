"""vLLM's own LLM.generate with its own sampler, logprobs included.

alike: set up as this project's engine has it, and a seed for each sample, so that the draw is what differs.
fastest: as vLLM comes, compiled and scheduled ahead, random numbers of the whole batch.
"""

import os

import torch

from ppo_pipeline.models.loading import load_tokenizer
from ppo_pipeline.sampling.engines.vllm_engine.served import CPU_CACHE, ENVIRONMENT, NEEDED

from ..prompts import prompt_ids
from .answering import Sampler, Work, answer


def load(work: Work, how: str) -> Sampler:
    """Return `LLM.generate` with the model loaded."""
    os.environ |= {name: value for name, value in ENVIRONMENT.items() if name not in os.environ} | NEEDED
    from vllm import LLM, SamplingParams

    ids = prompt_ids(load_tokenizer(work.base), work.count)
    cpu, alike, total = not torch.cuda.is_available(), how == "alike", sum(map(len, ids))
    # A seeded sample whose prompt is read in two parts ends vLLM 0.32 on CPUs ("CPU Generator does not use offset").
    settings = {"enforce_eager": cpu, "async_scheduling": False, "max_num_batched_tokens": max(2048, total)}
    llm = LLM(
        model=str(work.base), skip_tokenizer_init=True, dtype=work.dtype, max_num_seqs=work.count, seed=0,
        max_model_len=max(map(len, ids)) + work.new_tokens, logprobs_mode="processed_logprobs",
        generation_config="vllm", disable_log_stats=True, use_tqdm_on_load=False, gpu_memory_utilization=0.3,
        kv_cache_memory_bytes=CPU_CACHE if cpu else None, **(settings if alike else {}),
    )  # fmt: skip
    generation = llm.model_config.try_get_generation_config()
    ends = generation.get("eos_token_id", llm.model_config.hf_config.eos_token_id)
    stop = ends if isinstance(ends, list) else [ends]

    def sample(number: int) -> int:
        llm.reset_prefix_cache()
        params = [
            SamplingParams(
                temperature=1.0, max_tokens=work.new_tokens, logprobs=0, stop_token_ids=stop, ignore_eos=True,
                detokenize=False, seed=number * work.count + i if alike else None,
            )
            for i in range(work.count)
        ]  # fmt: skip
        found = llm.generate([{"prompt_token_ids": p} for p in ids], params, use_tqdm=False)
        return sum(len(response.outputs[0].token_ids) for response in found)

    return Sampler(total, sample)


if __name__ == "__main__":
    answer(load)
