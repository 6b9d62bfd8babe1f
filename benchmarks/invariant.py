"""What the same bits in every batch cost: sampling with compute.batch_invariant, and products cut into parts.

Cutting is forced here, as a processor with AMX needs it, so that its cost shows on any.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from ppo_pipeline.compute.machine import set_up
from ppo_pipeline.compute.native import row_invariant
from ppo_pipeline.compute.native.row_invariant import LIMIT, Alike
from ppo_pipeline.models.acceleration import accelerate_policy
from ppo_pipeline.models.checkpoint import load_checkpoint
from ppo_pipeline.models.loading import load_tokenizer, stop_ids_of
from ppo_pipeline.models.packed import can_pack
from ppo_pipeline.prompts.rendering import render
from ppo_pipeline.sampling.batch_invariant import load_sampler
from ppo_pipeline.sampling.decoder import Request
from ppo_pipeline.sampling.streams import uniforms
from ppo_pipeline.settings.sections import Compute
from ppo_pipeline.training.data import Sampled

from .projects import untrained
from .prompts import prompts

COUNT, LENGTH, TURNS = 64, 48, 5
PARTS = (64, 128, 256, 512)


def run(base: Path) -> list[dict[str, Any]]:
    """Return a row for sampling and one for the training forward with its backward pass; medians of turns."""
    compute = Compute(device="cpu", dtype="auto", threads=0, kernels="auto", batch_invariant=False, head="auto")
    device, dtype = set_up(compute)
    with untrained(base) as paths:
        tokenizer = load_tokenizer(base)
        ids = [render(tokenizer, [{"role": "user", "content": text}], "auto")[1] for text in prompts(COUNT)]
        rows = [sampling(base, paths.policy, tokenizer, ids, device, dtype)]
        return [*rows, training(base, paths.policy, paths.trainer, ids, device, dtype)]


def sampling(
    base: Path, policy: Path, tokenizer: Any, ids: list[list[int]], device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Return tokens per second, batch-invariant and not, in turns."""
    requests = [Request(p, uniforms(0, str(i), LENGTH)) for i, p in enumerate(ids)]
    decoders = {}
    for invariant in (True, False):
        model, kind = load_sampler(base, policy, device, dtype, invariant)
        decoders[invariant] = kind(model, stop_ids_of(model, tokenizer), LENGTH, 0.7, COUNT)
    rates: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(TURNS):
        for invariant, decoder in decoders.items():
            seconds, found = timed(lambda decoder=decoder: decoder.decode(requests))  # type: ignore[misc]
            rates[invariant].append(sum(len(c.ids) for c in found) / seconds)
    ours, plain = (float(np.median(rates[kind])) for kind in (True, False))
    return {
        "what": f"sampling {COUNT} x {LENGTH} with LoRA, batch-invariant ({str(dtype).removeprefix('torch.')})",
        "ours": f"{ours:,.0f} tokens/s", "peer": f"not: {plain:,.0f} tokens/s", "ratio": round(ours / plain, 2),
        "figures": {"invariant": rates[True], "plain": rates[False]},
    }  # fmt: skip


def training(
    base: Path, policy_folder: Path, trainer: Path, ids: list[list[int]], device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Return the seconds of a forward and backward pass over some 1000 tokens, in parts and whole, in turns."""
    policy, _ = load_checkpoint(base, policy_folder, trainer, device, dtype)
    accelerate_policy(policy)
    assert can_pack(policy.model)
    tensors = [torch.tensor(p, dtype=torch.int32) for p in ids]
    generator = np.random.default_rng(0)
    answers = [torch.tensor(generator.integers(0, 1000, 8), dtype=torch.int32) for _ in ids]
    data = Sampled([str(i) for i in range(len(ids))], tensors, answers, True, 0)
    batch = data.sequences(data.batches(np.arange(len(ids)), 1024)[0], 0, device)

    def step() -> None:
        scores = policy.score(batch, 0.7)
        (scores.logprobs.sum() + scores.entropy.sum()).backward()

    seconds: dict[str, list[float]] = {"parts": [], "whole": []}
    step()
    for _ in range(TURNS):
        for name, least in (("parts", LIMIT + 1), ("whole", 1)):
            with mock.patch.object(row_invariant, "numbers_alike", partial(forced, least)):
                seconds[name].append(timed(step)[0])
    parts, whole = (float(np.median(seconds[name])) for name in ("parts", "whole"))
    return {
        "what": f"training pass over {batch.ids.numel()} tokens, products in parts of up to {PARTS[-1]} rows",
        "ours": f"{parts:.2f} s", "peer": f"whole: {whole:.2f} s", "ratio": round(parts / whole, 3),
        "figures": seconds,
    }  # fmt: skip


def forced(least: int, *_: Any, most: int = LIMIT) -> Alike:
    """Stand in for the trial of a product."""
    return Alike(least, tuple(size for size in PARTS if size <= most))


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return how long `work` takes, and what it returns."""
    started = time.perf_counter()
    found = work()
    return time.perf_counter() - started, found
