"""Supervised training: epochs over shuffled batches of examples, each one optimizer step."""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...compute import crowd
from ...errors import PipelineError
from ...maths.schedule import learning_rate_factor
from ...resume.snapshots import Snapshots
from ...settings.supervised_sections import Supervised
from ..batches import generator, shuffled_minibatches
from ..loss_scale import LEAST_LOSS_SCALE, loss_scaler
from ..optimizer import adamw, gradient_norm, snapshot_bytes
from .state import load_state, save_state


class Task(Protocol):
    """What is learnt, example by example.

    names: of the examples (N,), as an error names them. weights: what each counts in its batch's mean (N,), such as
    its answer's tokens, or 1. tokens: of the examples (N,), for the progress shown.
    """

    names: list[str]
    weights: NDArray[np.float64]
    tokens: NDArray[np.int64]

    def microbatches(self, indices: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Return a batch's examples in parts, each small enough for one forward."""
        ...

    def loss(self, indices: NDArray[np.int64]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a microbatch, and statistics by name: each the sum over examples of weight x mean."""
        ...


@dataclass
class Position:
    """Where the training is: optimizer steps, and microbatches of the next one, that are behind it; their sums."""

    step: int = 0
    microbatch: int = 0
    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))


class SupervisedLoop:
    """Trains `parameters` on a task. `curve` has a row for each optimizer step: its loss, statistics, gradient, lr.

    A batch's loss is the weighted mean over all its examples, however it is cut into microbatches. section: of
    params.yaml, as an error names it. dtype: of the model; fp16 scales the loss.
    """

    def __init__(
        self, task: Task, parameters: dict[str, nn.Parameter], settings: Supervised, section: str,
        device: torch.device, dtype: torch.dtype,
    ) -> None:  # fmt: skip
        self.task, self.parameters, self.settings, self.section = task, parameters, settings, section
        self.device = device
        self.optimizer = adamw([{"params": list(parameters.values()), "lr": settings.lr}], settings)
        self.scaler = loss_scaler(device, dtype, None, 0)
        self.position = Position()
        self.curve: list[dict[str, float | None]] = []
        self.snapshots: Snapshots | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return -(-len(self.task.names) // self.settings.batch_size)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.settings.epochs * self.steps_per_epoch

    def run(
        self,
        key: tuple[object, ...],
        on_step: Callable[[int, int], None] = lambda examples, tokens: None,
        snapshots: Snapshots | None = None,
    ) -> None:
        """Make all steps. The order of the examples and dropout depend on the seed and `key` alone.

        on_step(examples, tokens) is called after each, with 0 tokens for one that an earlier attempt made.
        snapshots: goes on from the newest one, to the same bits as if it had never stopped, and makes further ones.
        """
        self.snapshots, seed_key = snapshots, (self.settings.seed, *key)
        if snapshots is not None:
            snapshots.expect(snapshot_bytes(self.parameters.values()))
            load_state(self, snapshots)
        first = self.position.step
        for epoch in range(self.settings.epochs):
            rng = generator(*seed_key, "epoch", epoch)
            for number, batch in enumerate(shuffled_minibatches(len(self.task.names), self.steps_per_epoch, rng)):
                if epoch * self.steps_per_epoch + number < first:
                    on_step(len(batch), 0)
                else:
                    self._step(batch, seed_key)
                    on_step(len(batch), int(self.task.tokens[batch].sum()))

    def _step(self, batch: NDArray[np.int64], seed_key: tuple[object, ...]) -> None:
        position, total = self.position, float(self.task.weights[batch].sum())
        if not position.microbatch:
            self.optimizer.zero_grad(set_to_none=True)
        for part in self.task.microbatches(batch)[position.microbatch :]:
            if self.snapshots is not None and self.snapshots.due():
                save_state(self, self.snapshots)
            seed = generator(*seed_key, "dropout", position.step, position.microbatch).integers(2**63)
            torch.manual_seed(int(seed))
            with crowd.sharing(self.settings.tuning == "lora"):  # as in training/ppo.py
                self._microbatch(part, total)
            position.microbatch += 1
        rate = self._set_rate()
        norm = self._clip_and_step(batch)
        means = {name: value / total for name, value in position.sums.items()}
        epoch = (position.step + 1) / self.steps_per_epoch
        self.curve.append({"step": position.step + 1, "epoch": epoch, **means, "grad_norm": norm, "lr": rate})
        self.position = Position(position.step + 1)

    def _microbatch(self, part: NDArray[np.int64], total: float) -> None:
        """Add a microbatch's gradient to the parameters', and its statistics to the step's."""
        loss, statistics = self.task.loss(part)
        with torch.no_grad():  # one read for all of them: a GPU is waited for at each
            numbers = torch.stack([loss, *(n.to(loss.dtype) for n in statistics.values())]).tolist()
        if not math.isfinite(numbers[0]):
            raise self._not_finite(f"the loss is {numbers[0]}", part)
        for name, number in zip(["loss", *statistics], numbers, strict=True):
            self.position.sums[name] += number
        self.scaler.scale(loss / total).backward()

    def _set_rate(self) -> float:
        """Set and return the learning rate of the step."""
        s = self.settings
        warmup = math.ceil(s.warmup_ratio * self.steps)
        rate = s.lr * learning_rate_factor(self.position.step + 1, s.lr_schedule, warmup, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _clip_and_step(self, batch: NDArray[np.int64]) -> float | None:
        """Clip the gradient's norm and make the step; return the norm, None where fp16 overflowed and skips it."""
        self.scaler.unscale_(self.optimizer)
        with_grad: list[Tensor] = [p for p in self.parameters.values() if p.grad is not None]
        norm, limit = gradient_norm(with_grad), self.settings.max_grad_norm
        number = norm.item()
        finite = math.isfinite(number)
        if not finite and (not self.scaler.is_enabled() or self.scaler.get_scale() <= LEAST_LOSS_SCALE):
            raise self._not_finite("the gradient is not finite", batch)
        if finite:
            torch.nn.utils.clip_grads_with_norm_(with_grad, float("inf") if limit is None else limit, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return number if finite else None

    def _not_finite(self, what: str, indices: NDArray[np.int64]) -> PipelineError:
        names = ", ".join(self.task.names[i] for i in indices[:5]) + (", ..." if len(indices) > 5 else "")
        return PipelineError(
            f"params.yaml: {self.section}: in optimizer step {self.position.step + 1} {what} ({names}). Lower "
            f"{self.section}.lr, or set compute.dtype to fp32."
        )
