"""A model of a round's time by the number of workers. Seconds throughout.

A stage takes start + load + the time until its last worker is done + what lies behind that. rollout, evaluate and
reference hand tasks to workers that are free, as engine/ray_engine/pool.py does; update's ranks wait for each other at
each step. What it leaves out: workers that slow each other down (but see `crowd`), deaths, disks under load while work
goes on, and that a step of a decoder is cheaper once few of a shard's responses go on.
"""

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppo_pipeline.training.batches import by_token_budget
from ppo_pipeline.training.groups import deal

POOLED = ("rollout", "reference", "update", "evaluate")
Lengths = NDArray[np.int64]


@dataclass(frozen=True)
class Load:
    """Work of a round. prompts, responses: (N,) tokens of each sample; heldout: (M,) tokens of each answer.

    shard: samples decoded together. batch_tokens: of reference. groups: update.gradient_groups. gradient_bytes: of all
    trained weights.
    """

    prompts: Lengths
    responses: Lengths
    heldout: Lengths
    shard: int
    batch_tokens: int
    epochs: int
    minibatches: int
    groups: int
    gradient_bytes: float


@dataclass(frozen=True)
class Rates:
    """What a worker and its cluster can do.

    step: of the decoder, for a shard. score, train: a token in a forward pass, and in one with its backward pass.
    start, rest: by stage; until workers are there, and what else a stage does once (loading, writing). driver: all that
    is not in the pooled stages. link: bytes a second between workers. crowd: how many times longer work takes for each
    doubling of the workers, where they share a machine.
    """

    step: float
    score: float
    train: float
    start: dict[str, float]
    rest: dict[str, float]
    driver: float
    link: float
    crowd: float = 1.0


def makespan(tasks: Iterable[float], workers: int) -> float:
    """Return when the last task is done, if each in its turn goes to the worker that is free first (Graham 1966)."""
    free = [0.0] * workers
    for seconds in tasks:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def shard_steps(prompts: Lengths, responses: Lengths, shard: int) -> list[int]:
    """Return the steps of each shard, its longest response, in the order in which they begin: most prompt tokens first.

    That is the order of sampling/shards.py.
    """
    starts = range(0, len(responses), shard)
    order = sorted(starts, key=lambda start: -int(prompts[start : start + shard].sum()))
    return [int(responses[start : start + shard].max()) for start in order]


def heaviest_rank(lengths: Lengths, groups: int, workers: int) -> int:
    """Return the tokens of the rank that has most of a minibatch, which is dealt into groups."""
    tokens = [int(lengths[part].sum()) for part in deal(lengths, groups)]
    share = groups // workers
    return max(sum(tokens[rank * share : (rank + 1) * share]) for rank in range(workers))


def exchange(gradient_bytes: float, workers: int, link: float) -> float:
    """Return the time of an all_to_all and an all_gather of the gradients: each moves all but a worker's own part."""
    return 2 * gradient_bytes * (workers - 1) / workers / link


def stages(load: Load, rates: Rates, workers: int) -> dict[str, float]:
    """Return the time of each pooled stage, and of the rest of the round as `driver`."""
    lengths = load.prompts + load.responses
    crowd = rates.crowd ** math.log2(workers)
    decoded = shard_steps(load.prompts, load.responses, load.shard)
    answered = shard_steps(np.zeros_like(load.heldout), load.heldout, load.shard)
    batches = [int(lengths[part].sum()) for part in by_token_budget(lengths, load.batch_tokens, padded=False)]
    scored = 2 * batches  # by the policy, then by the base
    minibatches = np.array_split(np.random.default_rng(0).permutation(lengths), load.minibatches)
    ranks = min(workers, load.groups)
    steps = [heaviest_rank(part, load.groups, ranks) * rates.train * crowd for part in minibatches]
    moved = exchange(load.gradient_bytes, ranks, rates.link)
    work = {
        "rollout": makespan([steps * rates.step * crowd for steps in decoded], workers),
        "reference": makespan([tokens * rates.score * crowd for tokens in scored], workers),
        "update": load.epochs * (sum(steps) + len(steps) * moved),
        "evaluate": makespan([steps * rates.step * crowd for steps in answered], workers),
    }
    return {name: rates.start[name] + rates.rest[name] + work[name] for name in POOLED} | {"driver": rates.driver}


def fitted(load: Load, one: dict[str, Any], two: dict[str, Any] | None = None) -> Rates:
    """Return rates from what benchmarks/workers.py measured with one worker on Ray, and `crowd` from two.

    Ray Train tells no busy seconds: update is taken to load and write for as long as reference does.
    """
    busy = {name: _busy(one, name) for name in POOLED if _busy(one, name)}
    start = {name: float(one["ready"].get(name, 0.0)) for name in POOLED}
    rest = {name: max(0.0, one["stages"][name] - start[name] - seconds) for name, seconds in busy.items()}
    rest["update"] = rest["reference"]
    lengths = load.prompts + load.responses
    update = one["stages"]["update"] - start["update"] - rest["update"]
    decoded = shard_steps(load.prompts, load.responses, load.shard)
    return Rates(
        step=busy["rollout"] / sum(decoded),
        score=busy["reference"] / (2 * int(lengths.sum())),
        train=update / (load.epochs * int(lengths.sum())),
        start=start,
        rest=rest,
        driver=one["seconds"] - sum(one["stages"][name] for name in POOLED),
        link=1e9,  # gloo over the loopback address; small beside the rest
        crowd=1.0 if two is None else _busy(two, "rollout") / busy["rollout"],
    )


def _busy(figures: dict[str, Any], stage: str) -> float:
    told: Sequence[dict[str, Any]] = figures["workers_told"].get(stage, ())
    return float(sum(worker.get("busy_seconds", 0.0) for worker in told))
