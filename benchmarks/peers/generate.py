"""transformers' generate: sampling in bf16, all prompts as one left-padded batch."""

import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.prompts import prompts


def main(base: str, count: int, new_tokens: int, passes: int) -> None:
    """Print useful tokens (up to and including the end token) and the seconds of the fastest pass."""
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).to(device).eval()
    chats = [[{"role": "user", "content": text}] for text in prompts(count)]
    texts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in chats]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(device)
    ends = model.generation_config.eos_token_id
    stop = set(ends if isinstance(ends, list) else [ends])
    best, useful = float("inf"), 0
    for number in range(passes):
        torch.manual_seed(number)
        started = time.perf_counter()
        out = model.generate(
            **batch, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=new_tokens,
            pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        seconds = time.perf_counter() - started
        tokens = 0
        for row in out[:, batch["input_ids"].shape[1] :].tolist():
            end = next((i + 1 for i, token in enumerate(row) if token in stop), len(row))
            tokens += end
        if seconds / tokens < best:
            best, useful = seconds / tokens, tokens
    print(json.dumps({"tokens_per_second": round(1 / best, 1), "tokens": useful}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
