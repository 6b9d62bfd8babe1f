"""transformers' generate: all prompts as one left-padded batch, no logprobs."""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..prompts import prompt_ids
from .answering import Sampler, Work, answer


def load(work: Work) -> Sampler:
    """Return `generate` with the model loaded."""
    tokenizer = AutoTokenizer.from_pretrained(work.base, padding_side="left")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(work.base, dtype=getattr(torch, work.dtype)).to(device).eval()
    ids = prompt_ids(tokenizer, work.count)
    batch = tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(device)
    ends = model.generation_config.eos_token_id
    stop = set(ends if isinstance(ends, list) else [ends])

    def sample(number: int) -> int:
        torch.manual_seed(number)
        out = model.generate(
            **batch, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=work.new_tokens,
            pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        rows = out[:, batch["input_ids"].shape[1] :].tolist()
        return sum(next((i + 1 for i, token in enumerate(row) if token in stop), len(row)) for row in rows)

    return Sampler(sum(map(len, ids)), sample)


if __name__ == "__main__":
    answer(load)
