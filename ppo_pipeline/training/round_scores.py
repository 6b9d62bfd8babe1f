"""A round's sampled tokens by the training forward: logprobs under policy and base, values, entropy."""

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from ..compute import crowd
from ..compute.machine import Machine
from ..engine.pool import Pool
from ..models.acceleration import accelerate_forward, accelerate_policy
from ..models.checkpoint import load_checkpoint
from ..models.loading import load_model
from ..models.policy import Policy, Sequences, model_logprobs
from ..observe.counter import Counter
from ..resume.kept_batches import KeptBatches
from ..resume.snapshots import Snapshots
from ..settings.sections import Reference
from ..tables.rollouts import ROLLOUTS
from ..tables.schema import lengths
from .data import Padding, sampled

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class RoundScores:
    """policy, reference, values, entropy: per response token, sequences concatenated. bootstrap: (N,) the value behind
    the last one. lengths: (N,). values and bootstrap mean nothing where has_values is false."""

    policy: Floats
    reference: Floats
    values: Floats
    entropy: Floats
    bootstrap: Floats
    lengths: NDArray[np.integer]
    has_values: bool
    padding_share: float


@dataclass(frozen=True)
class ScoreWork:
    """The scoring of the responses in the file `rollouts`, for a pool (engine/pool.py). policy and trainer: folders."""

    base: Path
    policy: Path
    trainer: Path
    rollouts: Path
    settings: Reference
    temperature: float

    def open(self, machine: Machine) -> "RoundScorer":
        """Load the policy."""
        return RoundScorer(self, machine)


class Facts(NamedTuple):
    """batches: which samples go through the model together. has_values: whether there is a critic."""

    batches: list[NDArray[np.int64]]
    has_values: bool


class Task(NamedTuple):
    """A batch, by its number, to be scored by the policy or by the base."""

    which: Literal["policy", "reference"]
    batch: int


class Scored(NamedTuple):
    """The columns of RoundScores for a task's batch, and what the batch held: tokens, and places run for them."""

    columns: dict[str, Floats]
    tokens: int = 0
    places: int = 0


class RoundScorer:
    """A Worker. Lets go of a whole model's policy before the base is loaded: two need not be in memory at once."""

    @torch.inference_mode()
    def __init__(self, work: ScoreWork, machine: Machine) -> None:
        self.work, self.machine = work, machine
        self.policy: Policy | None = None
        self.base: Any = None
        policy = self._load_policy()
        rollouts = ROLLOUTS.read(work.rollouts, ["prompt_ids", "response_ids"])
        self.data = sampled(rollouts, policy.model, work.settings.share_prefix)
        every = np.arange(len(self.data.sample_ids))
        self.facts = Facts(self.data.batches(every, work.settings.batch_tokens), policy.value_head is not None)

    @crowd.sharing()
    @torch.inference_mode()
    def __call__(self, task: Task, counter: Counter) -> Scored:
        """Return the scores of a batch."""
        indices = self.facts.batches[task.batch]
        sequences = self.data.sequences(indices, 0, self.machine.device)
        if task.which == "reference":
            logprobs = self._reference(sequences)
            counter.advance(len(indices))
            return Scored({"reference": to_numpy(logprobs)})
        padding = Padding()
        padding.add(sequences)
        scores = self._load_policy().score(sequences, self.work.temperature)
        columns = {"policy": scores.logprobs, "entropy": scores.entropy}
        if scores.values is not None and scores.bootstrap is not None:
            columns |= {"values": scores.values, "bootstrap": scores.bootstrap}
        counter.advance(len(indices), int(sequences.response_lengths.sum()))
        return Scored({name: to_numpy(column) for name, column in columns.items()}, padding.tokens, padding.places)

    def _load_policy(self) -> Policy:
        if self.policy is None:
            self.base = None
            gc.collect()
            work = self.work
            self.policy = load_checkpoint(work.base, work.policy, work.trainer, *self.machine, moments=False)[0]
            accelerate_policy(self.policy)
        return self.policy

    def _reference(self, sequences: Sequences) -> torch.Tensor:
        if self.policy is not None and self.policy.layers:
            return self.policy.reference_logprobs(sequences, self.work.temperature)
        if self.base is None:
            self.policy = None
            gc.collect()  # its layers and their kernels refer to each other
            self.base = load_model(self.work.base, *self.machine)
            accelerate_forward(self.base)  # as the policy has it: the KL to itself is exactly 0
        return model_logprobs(self.base, sequences, self.work.temperature)


def score_round(
    pool: Pool, work: ScoreWork, rollouts: pa.Table, counter: Counter, snapshots: Snapshots | None
) -> RoundScores:
    """Return the scores of a round's responses, once; `counter` counts each response twice."""
    facts: Facts = pool.open(work)
    counts = lengths(rollouts, "response_ids")
    offsets = np.concatenate([[0], np.cumsum(counts)])
    columns = {n: np.zeros(offsets[-1], np.float32) for n in ("policy", "reference", "values", "entropy")}
    columns["bootstrap"] = np.zeros(len(counts), np.float32)
    places = [np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in batch]) for batch in facts.batches]
    padding = Padding()
    with KeptBatches(snapshots, columns, facts.batches, ("policy", "reference")) as kept:
        counter.skip(sum(len(facts.batches[number]) for done in kept.done.values() for number in done))
        tasks = [Task(which, number) for which in ("policy", "reference") for number in kept.left(which)]
        for place, found in pool.run(tasks, counter):
            which, number = tasks[place]
            for name, column in found.columns.items():
                columns[name][facts.batches[number] if name == "bootstrap" else places[number]] = column
            padding.tokens += found.tokens
            padding.places += found.places
            kept.finish(number, which)
    return RoundScores(**columns, lengths=counts, has_values=facts.has_values, padding_share=padding.share)


def to_numpy(values: torch.Tensor) -> Floats:
    """Return a tensor's numbers as fp32."""
    numbers: Floats = values.float().cpu().numpy()
    return numbers
