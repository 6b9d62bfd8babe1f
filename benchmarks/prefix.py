"""What `reference.share_prefix` saves: training passes over the committed prompts, one by one and in groups."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ppo_pipeline.compute.machine import set_up
from ppo_pipeline.models.acceleration import accelerate_policy
from ppo_pipeline.models.checkpoint import load_checkpoint
from ppo_pipeline.models.loading import load_tokenizer
from ppo_pipeline.models.policy import Policy
from ppo_pipeline.prompts.rendering import render
from ppo_pipeline.settings.sections import Compute
from ppo_pipeline.training.batches import generator, shuffled_minibatches
from ppo_pipeline.training.data import Sampled, sharing

from .invariant import timed
from .projects import untrained

SAMPLES, LENGTH, MINIBATCHES, BUDGET, TURNS = 64, 13, 4, 1024, 3
FORMS = {"false": False, "true": True, "tree": "tree"}


def run(base: Path) -> list[dict[str, Any]]:
    """Return two rows for each number of samples a prompt: reference's pass, an epoch of update; medians of turns."""
    compute = Compute(device="cpu", dtype="auto", threads=0, kernels="auto", batch_invariant=False, head="auto")
    machine = set_up(compute)
    lines = [json.loads(line) for line in Path("data/prompts/skills.jsonl").read_text(encoding="utf-8").splitlines()]
    chosen = np.random.default_rng(0).permutation(len(lines))[:SAMPLES]
    with untrained(base) as paths:
        policy, _ = load_checkpoint(base, paths.policy, paths.trainer, *machine)
        tokenizer = load_tokenizer(base)
    accelerate_policy(policy)
    ids = [render(tokenizer, [{"role": "user", "content": lines[i]["prompt"]}], "auto")[1] for i in chosen]
    rows: list[dict[str, Any]] = []
    for group in (1, 4, 8):
        rows += compared(policy, ids[: SAMPLES // group], group, machine[0])
    return rows


def compared(policy: Policy, ids: list[list[int]], group: int, device: torch.device) -> list[dict[str, Any]]:
    """Return the rows for `group` samples to each of the prompts."""
    prompts = [torch.tensor(prompt, dtype=torch.int32) for prompt in ids for _ in range(group)]
    answers = list(torch.from_numpy(np.random.default_rng(1).integers(0, 1000, (SAMPLES, LENGTH), np.int32)))
    names = [str(i) for i in range(SAMPLES)]
    forms = {name: sharing(names, prompts, answers, policy.model, form) for name, form in FORMS.items()}  # type: ignore[arg-type]
    rows = []
    for what, work in (("reference", reference), ("update", epoch)):
        seconds: dict[str, list[float]] = {name: [] for name in forms}
        for turn in range(TURNS + 1):
            for name, data in forms.items():
                taken, tokens = timed(partial(work, policy, data, device))
                if turn:  # the first one warms up
                    seconds[name].append(taken)
        false, true, tree = (float(np.median(each)) for each in seconds.values())
        rows.append({
            "what": f"{what}: {len(ids)} prompts x {group}, share_prefix: tree",
            "ours": f"{tree:.2f} s", "peer": f"true {true:.2f} s, false {false:.2f} s", "ratio": round(true / tree, 2),
            "figures": {**seconds, "tokens of tree": tokens},
        })  # fmt: skip
    return rows


def reference(policy: Policy, data: Sampled, device: torch.device) -> int:
    """Score all samples, without a gradient; return the tokens that were run."""
    tokens = 0
    with torch.inference_mode():
        for part in data.batches(np.arange(SAMPLES), 4 * BUDGET):
            batch = data.sequences(part, 0, device)
            policy.score(batch, 0.7)
            tokens += batch.ids.numel()
    return tokens


def epoch(policy: Policy, data: Sampled, device: torch.device) -> int:
    """Make the gradients of the minibatches of an epoch; return the tokens that were run."""
    tokens = 0
    for minibatch in shuffled_minibatches(SAMPLES, MINIBATCHES, generator("prefix")):
        for part in data.batches(minibatch, BUDGET):
            batch = data.sequences(part, 0, device)
            scores = policy.score(batch, 0.7)
            (scores.logprobs.sum() + scores.entropy.sum() + scores.values.sum()).backward()  # type: ignore[union-attr]
            tokens += batch.ids.numel()
    return tokens
