"""This project's decoder on the same prompts, logprobs included."""

import json
import sys
import time
from pathlib import Path

import torch

from benchmarks.prompts import prompts
from ppo_pipeline.compute.machine import set_up
from ppo_pipeline.models.acceleration import accelerate_model
from ppo_pipeline.models.loading import load_model, load_tokenizer, stop_ids_of
from ppo_pipeline.prompts.rendering import render
from ppo_pipeline.sampling.decoder import Decoder, Request
from ppo_pipeline.sampling.streams import uniforms
from ppo_pipeline.settings.sections import Compute


def main(base: str, count: int, new_tokens: int, passes: int) -> None:
    """Print useful tokens and the rate of the fastest pass."""
    device, _ = set_up(Compute(device="auto", dtype="bf16", threads=0, kernels="auto", batch_invariant=False))
    tokenizer, model = load_tokenizer(Path(base)), load_model(Path(base), device, torch.bfloat16)
    accelerate_model(model)
    ids = [render(tokenizer, [{"role": "user", "content": text}], "auto")[1] for text in prompts(count)]
    decoder = Decoder(model, stop_ids_of(model, tokenizer), new_tokens, 1.0, count)
    best, useful = float("inf"), 0
    for number in range(passes):
        started = time.perf_counter()
        found = decoder.decode([Request(p, uniforms(number, str(i), new_tokens)) for i, p in enumerate(ids)])
        seconds = time.perf_counter() - started
        tokens = sum(len(response.ids) for response in found)
        if seconds / tokens < best:
            best, useful = seconds / tokens, tokens
    print(json.dumps({"tokens_per_second": round(1 / best, 1), "tokens": useful}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
