"""The PPO update of one round: epochs over shuffled minibatches, each one optimizer step."""

import math
from collections import defaultdict
from collections.abc import Callable

import torch
from numpy.typing import NDArray
from torch import Tensor

from ..compute import crowd
from ..errors import PipelineError
from ..models.policy import Policy
from ..resume.snapshots import Snapshots
from ..settings.learning_sections import Update
from .batches import generator, shuffled_minibatches
from .data import Padding, Sampled
from .grouped import grouped_gradient
from .loss import NotFiniteError, check_finite, summed_loss
from .loss_inputs import LossInputs
from .loss_scale import LEAST_LOSS_SCALE
from .optimizer import gradient_norm, snapshot_bytes, trained_parameters
from .ranks import Ranks
from .update_state import Position, load_state, save_state


class PPO:
    """Runs the update. After `run`, `metrics` returns token-weighted means over all its steps.

    max_new_tokens: the length by which loss_normalization fixed_length divides. scaler: of fp16's loss.
    whiten_minibatches: whether advantages are whitened over each minibatch's tokens. ranks: the processes that make
    the update together. Raises PipelineError where they cannot.
    """

    def __init__(
        self,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        settings: Update,
        temperature: float,
        pad_id: int,
        max_new_tokens: int = 1,
        scaler: torch.amp.GradScaler | None = None,
        whiten_minibatches: bool = False,
        ranks: Ranks | None = None,
    ) -> None:
        self.policy, self.optimizer, self.settings = policy, optimizer, settings
        self.temperature, self.pad_id, self.max_new_tokens = temperature, pad_id, max_new_tokens
        self.whiten_minibatches, self.ranks = whiten_minibatches, ranks or Ranks()
        self.parameters = list(trained_parameters(policy).values())
        self.device = next(iter(policy.model.parameters())).device
        self.scaler = scaler or torch.amp.GradScaler(self.device.type, enabled=False)
        self.sums: dict[str, float] = defaultdict(float)
        self.padding = Padding()
        self.tokens = 0
        self.steps = 0
        self.skipped = 0
        self.stopped = False
        self.grad_norms: list[float] = []
        self.first_ratio: dict[str, float] = {}
        self.position = Position()
        self.seed_key: tuple[object, ...] = ()
        self.snapshots: Snapshots | None = None
        self.on_metrics: Callable[[dict[str, float]], None] = lambda means: None  # gets those of each step

    def run(
        self,
        data: Sampled,
        targets: LossInputs,
        seed_key: tuple[object, ...],
        on_step: Callable[[int, int], None] = lambda samples, tokens: None,
        snapshots: Snapshots | None = None,
    ) -> None:
        """Make epochs x minibatches optimizer steps, fewer where target_kl ends them.

        on_step(samples, tokens) is called after each. snapshots: goes on from the newest one, to the same bits as if
        it had never stopped, and makes further ones.
        """
        count = len(data.sample_ids)
        if count < self.settings.minibatches:
            raise PipelineError(
                f"params.yaml: update.minibatches: {self.settings.minibatches} for {count} samples; a minibatch "
                "without a sample would make no step. Lower it, or sample more."
            )
        for layer in self.policy.all_layers():  # LoRA's dropout alone: the base's own stays off
            layer.dropout.train(layer.lora_A.requires_grad)
        self.snapshots, self.seed_key = snapshots, seed_key
        if snapshots is not None:
            size = snapshot_bytes(self.parameters, self.settings.optimizer == "adamw_8bit")
            snapshots.expect(size * (self.ranks.size if self.policy.sharded else 1))
        resumed = load_state(self, snapshots) if snapshots is not None else False
        first = self.position
        for _ in range(first.epoch):
            on_step(count, 0)
        for epoch in range(first.epoch, self.settings.epochs):
            rng = generator(*seed_key, "epoch", epoch)
            seed = int(rng.integers(2**63))
            if not resumed:
                torch.manual_seed(seed)  # LoRA's dropout
            for minibatch, indices in enumerate(shuffled_minibatches(count, self.settings.minibatches, rng)):
                if (epoch, minibatch) < (first.epoch, first.minibatch):
                    on_step(len(indices), 0)
                elif not self.stopped:
                    if not resumed:
                        self.position = Position(epoch, minibatch)
                    resumed = False
                    on_step(len(indices), self._step(data, targets, indices))
        for layer in self.policy.all_layers():
            layer.dropout.eval()

    def _step(self, data: Sampled, targets: LossInputs, indices: NDArray) -> int:
        """One optimizer step, or none where the minibatch is beyond target_kl; return its tokens.

        The loss is the mean over the whole minibatch, however it is cut up.
        """
        if self.whiten_minibatches:
            targets = targets.whitened(indices)
        targets = targets.scaled(indices, self.settings.loss_normalization)
        tokens = sum(len(targets.advantages[i]) for i in indices)
        try:
            sums, ratios = self.gradient(data, targets, indices, self._divisor(len(indices), tokens))
            limit = self.settings.target_kl
            if limit is not None and sums["policy/approxkl"] / tokens > limit:
                self.stopped = True
                return tokens
            self._clip_and_step(data, indices)
        except NotFiniteError as error:
            raise PipelineError(f"{error.message} {self._kept()}") from None
        for name, value in sums.items():
            self.sums[name] += value
        self.tokens += tokens
        self.on_metrics({n: v / tokens for n, v in sums.items()} | {"policy/grad_norm": (self.grad_norms or [0.0])[-1]})
        if len(self.grad_norms) + self.skipped == 1:
            ratio = torch.cat(ratios)
            self.first_ratio = {
                "val/ratio_first": ratio.mean().item(),
                "val/ratio_first_max_deviation": (ratio - 1).abs().max().item(),
            }
        return tokens

    def gradient(
        self, data: Sampled, targets: LossInputs, indices: NDArray, divisor: int
    ) -> tuple[dict[str, float], list[Tensor]]:
        """Make the gradient of a minibatch's summed loss over `divisor`; return its statistics and ratios.

        The first are sums over tokens, the second per token, in parts; they are wanted of the first step alone.
        """
        if self.policy.sharded:
            from .sharded_gradient import sharded_gradient  # it imports torch's FSDP

            return sharded_gradient(self, data, targets, indices, divisor)
        if self.settings.gradient_groups > 1:
            return grouped_gradient(self, data, targets, indices, divisor)
        position = self.position
        if not position.microbatch:
            self.optimizer.zero_grad(set_to_none=True)
        for part in data.batches(indices, self.settings.microbatch_tokens)[position.microbatch :]:
            if self.snapshots is not None and self.snapshots.due():
                save_state(self, self.snapshots)
            position.ratios.append(self.backward(data, targets, part, divisor, position.sums))
            position.microbatch += 1
        return position.sums, position.ratios

    def backward(
        self, data: Sampled, targets: LossInputs, indices: NDArray, divisor: int, sums: dict[str, float]
    ) -> Tensor:
        """Add a microbatch's gradient to the parameters', and its statistics to `sums`; return its ratios."""
        with crowd.sharing(bool(self.policy.layers)):  # gradients of a whole model's norms are sums over threads
            loss, number, ratio = self._microbatch(data, targets, indices, sums)
            check_finite(number, self.steps + 1, data, indices)
            self.scaler.scale(loss / divisor).backward()
        return ratio

    def _divisor(self, samples: int, tokens: int) -> int:
        """Return what the minibatch's summed loss is divided by."""
        how = self.settings.loss_normalization
        return {"token_mean": tokens, "sequence_mean": samples, "fixed_length": samples * self.max_new_tokens}[how]

    def _microbatch(
        self, data: Sampled, targets: LossInputs, indices: NDArray, sums: dict[str, float]
    ) -> tuple[Tensor, float, Tensor]:
        """Return the loss summed over the microbatch's tokens, its number, and the ratios; add statistics to `sums`."""
        batch = targets.take(indices, self.device)
        sequences = data.sequences(indices, self.pad_id, self.device)
        self.padding.add(sequences)
        scores = self.policy.score(sequences, self.temperature, with_values=batch.returns is not None)
        loss, statistics = summed_loss(scores, batch, sequences.response_lengths, self.settings)
        with torch.no_grad():
            # One read for all of them: a GPU is waited for at each.
            number, *numbers = torch.stack([loss, *(n.to(loss.dtype) for n in statistics.values())]).tolist()
            for name, statistic in zip(statistics, numbers, strict=True):
                sums[name] += statistic
            ratio = torch.exp(scores.logprobs - batch.old_logprobs)
        return loss, number, ratio

    def _clip_and_step(self, data: Sampled, indices: NDArray) -> None:
        """Clip the gradient's norm and make the step; with fp16, skip it where the gradient overflowed."""
        self.scaler.unscale_(self.optimizer)
        limit = self.settings.max_grad_norm
        with_grad = [p for p in self.parameters if p.grad is not None]
        norm = gradient_norm(with_grad)
        if self.policy.sharded:  # the same number on all ranks, since it decides what they do
            norm = norm.new_tensor(math.hypot(*self.ranks.gather(norm.item)))
        number = norm.item()
        finite = math.isfinite(number)
        if not finite and (not self.scaler.is_enabled() or self.scaler.get_scale() <= LEAST_LOSS_SCALE):
            names = ", ".join(data.sample_ids[i] for i in indices[:5])
            raise NotFiniteError(
                f"update: the gradient of optimizer step {self.steps + 1} is not finite (samples {names}, ...). "
                "Lower update.lr, or set compute.dtype to fp32."
            )
        if finite:
            torch.nn.utils.clip_grads_with_norm_(with_grad, float("inf") if limit is None else limit, norm)
            self.grad_norms.append(number)
            self.steps += 1
        else:
            self.skipped += 1
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _kept(self) -> str:
        """Keep the state before this step, the last good one, and say where; the error ends the update."""
        self.position = Position(self.position.epoch, self.position.minibatch)
        self.optimizer.zero_grad(set_to_none=True)
        folder = save_state(self, self.snapshots) if self.snapshots is not None else None
        where = f" The state before that step is in {folder}." if folder else ""
        return f"The parent's checkpoint is as it was.{where}"

    def metrics(self) -> dict[str, float]:
        """Return the means over all tokens of all steps, under TRL's names."""
        means = {name: value / self.tokens for name, value in self.sums.items()}
        norms = self.grad_norms or [0.0]
        return {
            **dict(sorted(means.items())),
            **self.first_ratio,
            "policy/grad_norm": sum(norms) / len(norms),
            "policy/grad_norm_max": max(norms),
            "policy/steps": self.steps,
            "policy/stopped_early": float(self.stopped),
        } | ({"policy/steps_skipped": self.skipped} if self.scaler.is_enabled() else {})
