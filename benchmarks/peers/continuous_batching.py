"""transformers' continuous batching (`generate_batch`), logprobs included, its cache kept between the turns.

Without a number of blocks its cache takes up to 60 % of the machine's memory; here it has room for all prompts at once.
On CPUs its attention is sdpa: one product over the keys of all sequences, with a mask that keeps them apart.
"""

import math

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig, GenerationConfig

from ..prompts import prompt_ids
from .answering import Sampler, Work, answer


def load(work: Work) -> Sampler:
    """Return `generate_batch` with the model loaded."""
    tokenizer = AutoTokenizer.from_pretrained(work.base)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(work.base, dtype=getattr(torch, work.dtype)).to(device).eval()
    ids = prompt_ids(tokenizer, work.count)
    settings = ContinuousBatchingConfig(return_logprobs=True, seed=0, safety_margin=0.0)
    pages = math.ceil((max(map(len, ids)) + work.new_tokens) / settings.page_size)
    settings.num_blocks = pages * work.count
    how = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=work.new_tokens,
        eos_token_id=model.generation_config.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip

    def sample(number: int) -> int:
        found = model.generate_batch(ids, how, settings, persistent_manager=True).values()
        failed = [response.error for response in found if response.error or not response.is_finished()]
        if failed or len(found) != work.count:  # it only logs this
            raise RuntimeError(f"generate_batch finished {len(found) - len(failed)} of {work.count} prompts: {failed}")
        return sum(len(response.generated_tokens) for response in found)

    return Sampler(sum(map(len, ids)), sample)


if __name__ == "__main__":
    answer(load)
