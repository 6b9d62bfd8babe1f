"""The PPO update of one round: epochs over shuffled minibatches, each one optimizer step."""

import math
from collections import defaultdict
from collections.abc import Callable

import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import PipelineError
from ..maths.ppo import kl_loss, policy_loss, policy_statistics, value_loss
from ..models.policy import Policy
from ..resume.snapshots import Snapshots
from ..settings.learning_sections import Update
from .batches import generator, shuffled_minibatches
from .data import Padding, Sampled
from .loss_inputs import LossInputs
from .optimizer import trained_parameters
from .update_state import Position, load_state, save_state

FIRST_LOSS_SCALE, LEAST_LOSS_SCALE = 65536.0, 1.0


class PPO:
    """Runs the update. After `run`, `metrics` returns token-weighted means over all its steps.

    max_new_tokens: the length by which loss_normalization fixed_length divides. scaler: of fp16's loss.
    whiten_minibatches: whether advantages are whitened over each minibatch's tokens.
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
    ) -> None:
        self.policy, self.optimizer, self.settings = policy, optimizer, settings
        self.temperature, self.pad_id, self.max_new_tokens = temperature, pad_id, max_new_tokens
        self.whiten_minibatches = whiten_minibatches
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
            layer.dropout.train()
        self.snapshots = snapshots
        resumed = load_state(self, snapshots) if snapshots is not None else False
        first = self.position
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
        position = self.position
        if not position.microbatch:
            self.optimizer.zero_grad(set_to_none=True)
        if self.whiten_minibatches:
            targets = targets.whitened(indices)
        tokens = sum(len(targets.advantages[i]) for i in indices)
        divisor = self._divisor(len(indices), tokens)
        sums, ratios = position.sums, position.ratios
        for part in data.batches(indices, self.settings.microbatch_tokens)[position.microbatch :]:
            if self.snapshots is not None and self.snapshots.due():
                save_state(self, self.snapshots)
            loss, number, ratio = self._microbatch(data, targets, part, sums)
            if not math.isfinite(number):
                names = ", ".join(data.sample_ids[i] for i in part[:5])
                raise PipelineError(
                    f"update: the loss of optimizer step {self.steps + 1} is {number} (samples {names}, ...). "
                    f"{self._kept()} Lower update.lr or update.max_grad_norm."
                )
            self.scaler.scale(loss / divisor).backward()
            ratios.append(ratio)
            position.microbatch += 1
        limit = self.settings.target_kl
        if limit is not None and sums["policy/approxkl"] / tokens > limit:
            self.stopped = True
            return tokens
        self._clip_and_step(data, indices)
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

    def _divisor(self, samples: int, tokens: int) -> int:
        """Return what the minibatch's summed loss is divided by."""
        how = self.settings.loss_normalization
        return {"token_mean": tokens, "sequence_mean": samples, "fixed_length": samples * self.max_new_tokens}[how]

    def _microbatch(
        self, data: Sampled, targets: LossInputs, indices: NDArray, sums: dict[str, float]
    ) -> tuple[Tensor, float, Tensor]:
        """Return the loss summed over the microbatch's tokens, its number, and the ratios; add statistics to `sums`."""
        s, batch = self.settings, targets.take(indices, self.device)
        sequences = data.sequences(indices, self.pad_id, self.device)
        self.padding.add(sequences)
        scores = self.policy.score(sequences, self.temperature, with_values=batch.returns is not None)
        old, advantages = batch.old_logprobs, batch.advantages
        per_token = policy_loss(scores.logprobs, old, advantages, s.clip_range, s.clip_range_high, s.dual_clip)
        if batch.weights is not None:
            per_token = per_token * batch.weights
        terms = {"loss/policy": (1.0, per_token)}
        if batch.returns is not None and scores.values is not None and batch.old_values is not None:
            value = value_loss(scores.values, batch.old_values, batch.returns, s.value_clip_range)
            terms["loss/value"] = (s.value_coef, value)
        if batch.reference_logprobs is not None:
            terms["loss/kl"] = (s.kl_loss_coef, kl_loss(scores.logprobs, batch.reference_logprobs, s.kl_loss_estimator))
        if s.entropy_coef:
            terms["policy/entropy"] = (-s.entropy_coef, scores.entropy)
        shares = None
        if s.loss_normalization == "sequence_mean":
            lengths = sequences.response_lengths
            shares = torch.repeat_interleave(1 / lengths, lengths).to(self.device)
        loss = sum(
            (c * (term if shares is None else term * shares).sum() for c, term in terms.values()),
            start=torch.zeros((), device=self.device),
        )
        with torch.no_grad():
            statistics = policy_statistics(scores.logprobs, old, advantages, s.clip_range, s.clip_range_high)
            statistics |= {"policy/entropy": scores.entropy.sum()}
            statistics |= {name: term.sum() for name, (_, term) in terms.items()}
            # One read for all of them: a GPU is waited for at each.
            number, *numbers = torch.stack([loss, *(n.to(loss.dtype) for n in statistics.values())]).tolist()
            for name, statistic in zip(statistics, numbers, strict=True):
                sums[name] += statistic
            ratio = torch.exp(scores.logprobs - old)
        return loss, number, ratio

    def _clip_and_step(self, data: Sampled, indices: NDArray) -> None:
        """Clip the gradient's norm and make the step; with fp16, skip it where the gradient overflowed."""
        self.scaler.unscale_(self.optimizer)
        limit = self.settings.max_grad_norm
        with_grad = [p for p in self.parameters if p.grad is not None]
        norm = gradient_norm(with_grad)
        number = norm.item()
        finite = math.isfinite(number)
        if not finite and (not self.scaler.is_enabled() or self.scaler.get_scale() <= LEAST_LOSS_SCALE):
            names = ", ".join(data.sample_ids[i] for i in indices[:5])
            raise PipelineError(
                f"update: the gradient of optimizer step {self.steps + 1} is not finite (samples {names}, ...). "
                f"{self._kept()} Lower update.lr, or set compute.dtype to fp32."
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
        """Keep the state before this step, the last good one, and say where; an error ends the update."""
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


def gradient_norm(parameters: list[Tensor]) -> Tensor:
    """Return the 2-norm of all gradients together, in fp32 where they are in half precision."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if all(grad.dtype == torch.float32 for grad in grads):
        return torch.nn.utils.get_total_norm(grads)
    norms = [torch.linalg.vector_norm(grad, dtype=torch.float32) for grad in grads]
    return torch.linalg.vector_norm(torch.stack(norms))


def loss_scaler(device: torch.device, dtype: torch.dtype, scale: float | None, streak: int) -> torch.amp.GradScaler:
    """Return the scaler of fp16's loss as it was left, or one that does nothing for other dtypes."""
    if dtype != torch.float16:
        return torch.amp.GradScaler(device.type, enabled=False)
    scaler = torch.amp.GradScaler(device.type, init_scale=scale or FIRST_LOSS_SCALE)
    if scale is not None:
        scaler.load_state_dict({**scaler.state_dict(), "_growth_tracker": streak})
    return scaler
