"""What GPUs have of their own: steps as graphs, attention without padding. Against the same code without them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import torch

from ppo_pipeline.compute import flash
from ppo_pipeline.compute.machine import set_up
from ppo_pipeline.models.checkpoint import load_checkpoint
from ppo_pipeline.models.loading import load_model, load_tokenizer
from ppo_pipeline.models.packed import can_pack
from ppo_pipeline.models.policy import Policy
from ppo_pipeline.sampling import graphs
from ppo_pipeline.sampling.decoder import Decoder
from ppo_pipeline.sampling.request import Request
from ppo_pipeline.sampling.streams import uniforms
from ppo_pipeline.settings.sections import Compute
from ppo_pipeline.training.data import Sampled

from .projects import untrained
from .prompts import prompt_ids

TURNS = 3
DECODED = ((128, 64), (1, 64))  # prompts, tokens
TRAINED = ((64, 200, 100), (16, 500, 1500))  # samples, prompt and response tokens


def run(base: Path) -> list[dict[str, Any]]:
    """Return rows for sampling and for the training forward with its backward pass; medians of turns."""
    if not torch.cuda.is_available():
        raise click.ClickException("no NVIDIA GPU here")
    compute = Compute(device="cuda", dtype="bf16", threads=0, kernels="auto", batch_invariant=False, head="auto")
    device, dtype = set_up(compute)
    tokenizer = load_tokenizer(base)
    rows = decoding(load_model(base, device, dtype), tokenizer)
    with untrained(base) as paths:
        policy, _ = load_checkpoint(base, paths.policy, paths.trainer, device, dtype)
    return [*rows, *training(policy, device)]


@contextmanager
def without(*parts: str) -> Iterator[None]:
    """Have no graphs, or no flash kernels."""
    steps = 10**9 if "graphs" in parts else graphs.PLAIN_STEPS
    serves = (lambda *_: False) if "flash" in parts else flash.serves
    with mock.patch.object(graphs, "PLAIN_STEPS", steps), mock.patch.object(flash, "serves", serves):
        yield


def timed(work: Callable[[], int]) -> tuple[float, int]:
    """Return the median seconds of turns behind one to warm up, and what the work returned."""
    seconds, found = [], work()
    for _ in range(TURNS):
        torch.cuda.synchronize()
        started = time.perf_counter()
        found = work()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds)), found


def decoding(model: Any, tokenizer: Any) -> list[dict[str, Any]]:
    """Return two rows for each number of prompts: against steps without graphs, and without flash kernels either."""
    rows = []
    for count, length in DECODED:
        ids = prompt_ids(tokenizer, count)
        requests = [Request(p, uniforms(0, str(i), length)) for i, p in enumerate(ids)]
        found = {}
        for less in ((), ("graphs",), ("graphs", "flash")):
            with without(*less):
                decoder = Decoder(model, (), length, 1.0, count)
                found[less] = timed(lambda d=decoder, r=requests: sum(len(c.ids) for c in d.decode(r)))
        ours = found.pop(())
        for less, other in found.items():
            rows.append(
                {
                    "what": f"sampling, {count} prompts x {length} tokens, bf16",
                    "ours": f"{ours[1] / ours[0]:,.0f} tokens/s",
                    "peer": f"without {' and '.join(less)}: {other[1] / other[0]:,.0f} tokens/s",
                    "ratio": round(other[0] / ours[0], 2),
                }
            )
    return rows


def training(policy: Policy, device: torch.device) -> list[dict[str, Any]]:
    """Return a row for each size: the training forward and backward pass against the one with padding and a mask."""
    rng, rows = np.random.default_rng(0), []
    assert can_pack(policy.model)
    for count, before, after in TRAINED:
        start = rng.integers(0, 1000, before // 2)
        prompts = [np.concatenate([start, rng.integers(0, 1000, rng.integers(1, before))]) for _ in range(count)]
        answers = [rng.integers(0, 1000, rng.integers(1, after)) for _ in range(count)]
        columns = [[torch.from_numpy(ids.astype(np.int32)) for ids in rows] for rows in (prompts, answers)]
        data = Sampled([str(i) for i in range(count)], *columns, packed=True, tree=True)

        def step(data: Sampled = data, count: int = count) -> int:
            torch.cuda.reset_peak_memory_stats()
            scores = policy.score(data.sequences(np.arange(count), 0, device), 1.0)
            (scores.logprobs.sum() + scores.entropy.sum()).backward()
            return torch.cuda.max_memory_allocated()

        ours = timed(step)
        with without("flash"):
            other = timed(step)
        tokens = sum(map(len, prompts)) + sum(map(len, answers))
        rows.append(
            {
                "what": f"update, forward and backward of {count} samples, {tokens} tokens, bf16",
                "ours": f"{1000 * ours[0]:.0f} ms, {ours[1] / 1e9:.2f} GB",
                "peer": f"padded, with a mask: {1000 * other[0]:.0f} ms, {other[1] / 1e9:.2f} GB",
                "ratio": round(other[0] / ours[0], 2),
            }
        )
    return rows
