"""A round's sampled tokens by the training forward: logprobs under policy and base, values, entropy."""

import gc
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from ..models.acceleration import accelerate_forward, accelerate_policy
from ..models.checkpoint import load_checkpoint
from ..models.loading import load_model
from ..models.packed import can_pack
from ..models.policy import Policy, model_logprobs
from ..observe.counter import Counter
from ..resume.kept_batches import KeptBatches
from ..resume.snapshots import Snapshots
from ..settings.sections import Reference
from ..tables.schema import lengths
from .data import Padding, Sampled, sampled

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


class RoundScorer:
    """Holds the policy, and lets go of a whole model's before the base is loaded: two need not be in memory at once."""

    @torch.inference_mode()
    def __init__(self, base: Path, policy: Path, trainer: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.base, self.device, self.dtype = base, device, dtype
        self.policy: Policy | None = load_checkpoint(base, policy, trainer, device, dtype)[0]
        accelerate_policy(self.policy)

    @torch.inference_mode()
    def score(
        self, rollouts: pa.Table, s: Reference, temperature: float, counter: Counter, snapshots: Snapshots | None
    ) -> RoundScores:
        """Return the scores of a round's responses, once; `counter` counts each response twice."""
        policy = self.policy
        assert policy is not None
        data = sampled(rollouts, can_pack(policy.model), s.share_prefix)
        counts = lengths(rollouts, "response_ids")
        offsets = np.concatenate([[0], np.cumsum(counts)])
        columns = {n: np.zeros(offsets[-1], np.float32) for n in ("policy", "reference", "values", "entropy")}
        columns["bootstrap"] = np.zeros(len(counts), np.float32)
        batches = data.batches(np.arange(len(counts)), s.batch_tokens)
        places = [np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in batch]) for batch in batches]
        kept = KeptBatches(snapshots, columns, [*zip(batches, places, strict=True)], ("policy", "reference"))
        padding, has_values = Padding(), policy.value_head is not None
        with kept:
            counter.skip(sum(len(batch) for done in kept.done.values() for batch in batches[:done]))
            for batch, where in kept.remaining("policy"):
                sequences = data.sequences(batch, 0, self.device)
                padding.add(sequences)
                scores = policy.score(sequences, temperature)
                columns["policy"][where] = to_numpy(scores.logprobs)
                columns["entropy"][where] = to_numpy(scores.entropy)
                if scores.values is not None and scores.bootstrap is not None:
                    columns["values"][where] = to_numpy(scores.values)
                    columns["bootstrap"][batch] = to_numpy(scores.bootstrap)
                counter.advance(len(batch), int(counts[batch].sum()))
            del policy
            self._score_reference(data, kept, temperature, counter)
        return RoundScores(**columns, lengths=counts, has_values=has_values, padding_share=padding.share)

    def _score_reference(self, data: Sampled, kept: KeptBatches, temperature: float, counter: Counter) -> None:
        assert self.policy is not None
        if self.policy.layers:
            reference = self.policy.reference_logprobs
        else:
            self.policy = None
            gc.collect()  # its layers and their kernels refer to each other
            model = load_model(self.base, self.device, self.dtype)
            accelerate_forward(model)  # as the policy has it: the KL to itself is exactly 0
            reference = partial(model_logprobs, model)
        for batch, where in kept.remaining("reference"):
            logprobs = reference(data.sequences(batch, 0, self.device), temperature)
            kept.arrays["reference"][where] = to_numpy(logprobs)
            counter.advance(len(batch), 0)


def to_numpy(values: torch.Tensor) -> Floats:
    """Return a tensor's numbers as fp32."""
    numbers: Floats = values.float().cpu().numpy()
    return numbers
