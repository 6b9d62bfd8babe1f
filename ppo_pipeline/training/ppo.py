"""The PPO update of one round: epochs over shuffled minibatches, each one optimizer step."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import PipelineError
from ..maths.ppo import policy_loss, policy_statistics, value_loss
from ..models.policy import Policy
from ..sections import Update
from .batches import by_token_budget, generator, shuffled_minibatches
from .data import Sampled
from .optimizer import trained_parameters


@dataclass(frozen=True)
class Targets:
    """What the update learns from, one tensor per sample, one entry per response token.

    old_logprobs and old_values: of the training forward at the round's start. advantages, returns: of GAE.
    """

    old_logprobs: list[Tensor]
    old_values: list[Tensor]
    advantages: list[Tensor]
    returns: list[Tensor]

    def take(self, indices: NDArray, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the chosen samples' entries, concatenated (tokens,), on the device."""
        columns = (self.old_logprobs, self.old_values, self.advantages, self.returns)
        first, second, third, fourth = (torch.cat([column[i] for i in indices]).to(device) for column in columns)
        return first, second, third, fourth


class PPO:
    """Runs the update. After `run`, `metrics` returns token-weighted means over all its steps."""

    def __init__(
        self,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        settings: Update,
        temperature: float,
        pad_id: int,
    ) -> None:
        self.policy, self.optimizer, self.settings = policy, optimizer, settings
        self.temperature, self.pad_id = temperature, pad_id
        self.parameters = list(trained_parameters(policy).values())
        self.device = next(iter(policy.model.parameters())).device
        self.sums: dict[str, float] = defaultdict(float)
        self.tokens = 0
        self.steps = 0
        self.grad_norms: list[float] = []
        self.first_ratio: dict[str, float] = {}

    def run(
        self,
        data: Sampled,
        targets: Targets,
        seed_key: tuple[object, ...],
        on_step: Callable[[int, int], None] = lambda samples, tokens: None,
    ) -> None:
        """Make epochs x minibatches optimizer steps; on_step(samples, tokens) is called after each."""
        count = len(data.sample_ids)
        if count < self.settings.minibatches:
            raise PipelineError(
                f"params.yaml: update.minibatches: {self.settings.minibatches} for {count} samples; a minibatch "
                "without a sample would make no step. Lower it, or sample more."
            )
        for layer in self.policy.layers.values():  # LoRA's dropout alone: the base's own stays off
            layer.dropout.train()
        for epoch in range(self.settings.epochs):
            rng = generator(*seed_key, "epoch", epoch)
            torch.manual_seed(int(rng.integers(2**63)))  # LoRA's dropout
            for indices in shuffled_minibatches(count, self.settings.minibatches, rng):
                tokens = self._step(data, targets, indices)
                on_step(len(indices), tokens)
        for layer in self.policy.layers.values():
            layer.dropout.eval()

    def _step(self, data: Sampled, targets: Targets, indices: NDArray) -> int:
        """One optimizer step: the loss is the mean over the minibatch's tokens, however it is cut up."""
        self.optimizer.zero_grad(set_to_none=True)
        total = sum(len(targets.advantages[i]) for i in indices)
        ratios = []
        for part in by_token_budget(data.total_lengths[indices], self.settings.microbatch_tokens):
            loss, ratio = self._microbatch(data, targets, indices[part])
            if not torch.isfinite(loss):
                names = ", ".join(data.sample_ids[i] for i in indices[part][:5])
                raise PipelineError(
                    f"update: the loss of optimizer step {self.steps + 1} is {loss.item()} (samples {names}, ...); "
                    "nothing was written. Lower update.lr or update.max_grad_norm."
                )
            (loss / total).backward()
            ratios.append(ratio)
        self._clip()
        self.optimizer.step()
        self.steps += 1
        self.tokens += total
        if self.steps == 1:
            ratio = torch.cat(ratios)
            self.first_ratio = {
                "val/ratio_first": ratio.mean().item(),
                "val/ratio_first_max_deviation": (ratio - 1).abs().max().item(),
            }
        return total

    def _microbatch(self, data: Sampled, targets: Targets, indices: NDArray) -> tuple[Tensor, Tensor]:
        """Return the loss summed over the microbatch's tokens, and its ratios."""
        old_logprobs, old_values, advantages, returns = targets.take(indices, self.device)
        scores = self.policy.score(data.sequences(indices, self.pad_id, self.device), self.temperature)
        s = self.settings
        pg = policy_loss(scores.logprobs, old_logprobs, advantages, s.clip_range).sum()
        vf = value_loss(scores.values, old_values, returns, s.value_clip_range).sum()
        loss = pg + s.value_coef * vf
        if s.entropy_coef:
            loss = loss - s.entropy_coef * scores.entropy.sum()
        with torch.no_grad():
            statistics = policy_statistics(scores.logprobs, old_logprobs, advantages, s.clip_range)
            statistics |= {"loss/policy": pg, "loss/value": vf, "policy/entropy": scores.entropy.sum()}
            for name, value in statistics.items():
                self.sums[name] += value.item()
            ratio = torch.exp(scores.logprobs - old_logprobs)
        return loss, ratio

    def _clip(self) -> None:
        limit = self.settings.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, float("inf") if limit is None else limit)
        if not torch.isfinite(norm):
            raise PipelineError(
                f"update: the gradient of optimizer step {self.steps + 1} is not finite; nothing was written. "
                "Lower update.lr, or set compute.dtype to fp32."
            )
        self.grad_norms.append(norm.item())

    def metrics(self) -> dict[str, float]:
        """Return the means over all tokens of all steps, under TRL's names."""
        means = {name: value / self.tokens for name, value in self.sums.items()}
        return {
            **dict(sorted(means.items())),
            **self.first_ratio,
            "policy/grad_norm": sum(self.grad_norms) / len(self.grad_norms),
            "policy/grad_norm_max": max(self.grad_norms),
        }
