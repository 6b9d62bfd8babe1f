"""Our own draw inside vLLM: a logits processor that chooses each token, so that vLLM's greedy sampler takes it.

A sample's uniform numbers are the same as with our decoder, and so are the formulas (sampling/draw.py): the logprob is
that of the full softmax of logits / temperature, and of truncated sampling the mass of what is kept is known. vLLM's
own logprobs are either of what truncation left (processed) or without temperature (raw).

This module is imported by vLLM's workers. vLLM's side: "Custom Logits Processors" of its documentation.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from ...draw import draw, pick_greedy
from ...truncation import Truncation

NAME = "ppo_pipeline"  # of our part in vLLM's additional_config


class Row(NamedTuple):
    """A sequence of vLLM's batch. sample: its number. ids: what it has come to, a list that vLLM makes longer."""

    sample: int
    ids: list[int]


class DrawProcessor(LogitsProcessor):
    """Draws the tokens of `begin`'s samples, and keeps ids, logprobs and kept mass of them until `found` asks."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        how = vllm_config.additional_config[NAME]
        self.temperature, self.truncation = how["temperature"], Truncation(*how["truncation"])
        self.device = device
        self.rows: dict[int, Row] = {}
        self.uniforms: Tensor | None = None
        self.ids = self.logprobs = self.kept_mass = torch.empty(0)

    def begin(self, count: int, longest: int, uniforms: np.ndarray | None) -> None:
        """Make room for `count` samples of `longest` tokens; uniforms: (count, longest), None for greedy ones."""
        self.uniforms = None if uniforms is None else torch.from_numpy(uniforms).to(self.device)
        self.ids = torch.full((count, longest), -1, dtype=torch.int32, device=self.device)
        self.logprobs, self.kept_mass = (torch.zeros(count, longest, device=self.device) for _ in range(2))

    def found(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ids, logprobs and kept mass (count, longest) of what was drawn."""
        ids, logprobs, kept_mass = (each.cpu().numpy() for each in (self.ids, self.logprobs, self.kept_mass))
        return ids, logprobs, kept_mass

    def is_argmax_invariant(self) -> bool:
        """Say that this decides what a greedy sampler takes."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow vLLM's batch: what left it, came into it and moved in it, in this order."""
        if batch_update is None:
            return
        for place in batch_update.removed:
            self.rows.pop(place, None)
        for place, params, _, ids in batch_update.added:
            self.rows[place] = Row(params.extra_args["sample"], ids)
        for one, other, direction in batch_update.moved:
            moving, back = self.rows.pop(one, None), self.rows.pop(other, None)
            if moving is not None:
                self.rows[other] = moving
            if back is not None and direction == MoveDirectionality.SWAP:
                self.rows[one] = back

    def apply(self, logits: Tensor) -> Tensor:
        """Draw a token of each row of logits (n, V), fp32, and make it the greatest; note it.

        Where vLLM reads a long prompt in parts, or one anew, a place is written more than once: the last time counts.
        """
        if not self.rows:  # vLLM tries itself
            return logits
        rows = [self.rows[place] for place in range(len(logits))]
        samples = torch.tensor([row.sample for row in rows], device=self.device)
        steps = torch.tensor([len(row.ids) for row in rows], device=self.device)
        if self.uniforms is None:
            drawn = pick_greedy(logits, self.temperature)
        else:
            drawn = draw(logits, self.uniforms[samples, steps], self.temperature, self.truncation)
        self.ids[samples, steps] = drawn.tokens.to(torch.int32)
        self.logprobs[samples, steps] = drawn.logprobs
        self.kept_mass[samples, steps] = drawn.kept_mass
        logits[torch.arange(len(rows), device=self.device), drawn.tokens] = torch.inf
        return logits


# Called by vLLM's `collective_rpc` with each worker.


def begin(worker: Any, count: int, longest: int, uniforms: np.ndarray | None) -> None:
    """Have a worker's processor begin."""
    _processor(worker).begin(count, longest, uniforms)


def found(worker: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what a worker's processor has found."""
    return _processor(worker).found()


def _processor(worker: Any) -> DrawProcessor:
    processors = worker.model_runner.input_batch.logitsprocs.non_argmax_invariant
    return next(each for each in processors if isinstance(each, DrawProcessor))
