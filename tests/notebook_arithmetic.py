"""Both notebooks' arithmetic in plain loops over tokens, for tests: nothing here is imported from ppo_pipeline.

A response is scored by a plain forward of its own, prompt and response one behind the other, without padding.
"""

import math
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass
class Sample:
    """A prompt with its response as token ids, and what is computed of it, a number for each response token."""

    prompt: list[int]
    response: list[int]
    score: float = 0.0
    old: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    value_after: float = 0.0
    rewards: list[float] = field(default_factory=list)
    advantages: list[float] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)

    @property
    def kl(self) -> list[float]:
        """k1 of each token, in nats."""
        return [a - b for a, b in zip(self.old, self.reference, strict=True)]


class PlainLora(nn.Module):
    """base(x) + alpha / r * B A dropout(x), with the base frozen."""

    def __init__(self, base: nn.Linear, a: Tensor, b: Tensor, alpha: float, dropout: float) -> None:
        super().__init__()
        self.base, self.a, self.b = base, nn.Parameter(a.clone()), nn.Parameter(b.clone())
        self.scale, self.dropout = alpha / a.shape[0], nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * ((self.dropout(x) @ self.a.T) @ self.b.T)


def put_lora(model: Any, adapter: dict[str, Tensor], alpha: float, dropout: float) -> dict[str, nn.Parameter]:
    """Put an adapter in PEFT's names onto the model; return its parameters as `<module>.a` and `<module>.b`."""
    model.requires_grad_(False)
    found = {}
    for path, module in list(model.named_modules()):
        if path.split(".")[-1] in LORA_TARGETS:
            a, b = (adapter[f"base_model.model.{path}.lora_{x}.weight"] for x in "AB")
            layer = PlainLora(module, a, b, alpha, dropout)
            model.get_submodule(path.rpartition(".")[0]).add_module(path.split(".")[-1], layer)
            found[f"{path}.a"], found[f"{path}.b"] = layer.a, layer.b
    return found


def tokens_of(
    model: Any, head: nn.Linear | None, sample: Sample, temperature: float, places: int = 0
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Yield for each response token its logprob, the entropy and V of the state before it; at last V behind all.

    places: the text is filled up to so many tokens on the right, which a causal model never sees: where dropout draws
    for whole batches, its numbers are those of the batch.
    """
    ids = [*sample.prompt, *sample.response]
    filled = torch.tensor([ids + [0] * (places - len(ids))])
    out = model(filled, output_hidden_states=True, use_cache=False)
    for t, token in enumerate(sample.response):
        before = len(sample.prompt) + t - 1
        every = torch.log_softmax(out.logits[0, before].float() / temperature, dim=-1)
        value = None if head is None else head(out.hidden_states[-1][0, before])[0]
        yield every[token], -(every.exp() * every).sum(), value
    after = None if head is None else head(out.hidden_states[-1][0, len(ids) - 1])[0]
    yield torch.zeros(()), torch.zeros(()), after


@torch.no_grad()
def look_back(policy: Any, head: nn.Linear, reference: Any, samples: list[Sample], temperature: float) -> None:
    """Fill in old and reference logprobs and the values, of models in evaluation mode."""
    for sample in samples:
        *steps, last = tokens_of(policy, head, sample, temperature)
        sample.old = [lp.item() for lp, _, _ in steps]
        sample.values = [value.item() for _, _, value in steps]
        sample.value_after = last[2].item()
        sample.reference = [lp.item() for lp, _, _ in tokens_of(reference, None, sample, temperature)][:-1]


def rewards_full(sample: Sample, coefficient: float = 0.1) -> list[float]:
    """The full notebook: nothing but on the last token, the score less the KL summed over the response."""
    return [0.0] * (len(sample.response) - 1) + [sample.score - coefficient * sum(sample.kl)]


def rewards_lora(sample: Sample, coefficient: float = 0.05) -> list[float]:
    """The LoRA notebook: the KL on each token, the score on the last one too."""
    rewards = [-coefficient * kl for kl in sample.kl]
    rewards[-1] += sample.score
    return rewards


def gae(sample: Sample, gamma: float, lam: float, value_after: float) -> None:
    """Fill in advantages and returns, from the last token backwards."""
    running, behind = 0.0, value_after
    sample.advantages = [0.0] * len(sample.response)
    for t in reversed(range(len(sample.response))):
        delta = sample.rewards[t] + gamma * behind - sample.values[t]
        running = delta + gamma * lam * running
        behind = sample.values[t]
        sample.advantages[t] = running
    sample.returns = [a + v for a, v in zip(sample.advantages, sample.values, strict=True)]


def normalised(numbers: list[float]) -> list[float]:
    """Mean 0, standard deviation 1 (unbiased, torch's default), with 1e-8 beside the deviation."""
    mean = sum(numbers) / len(numbers)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in numbers) / (len(numbers) - 1))
    return [(x - mean) / (deviation + 1e-8) for x in numbers]


def loss_terms(
    policy: Any, head: nn.Linear, minibatch: list[Sample], temperature: float, value_clip: float | None, places: int = 0
) -> dict[str, Tensor]:
    """Policy loss, value loss and entropy of a minibatch, each the mean over its response tokens, with gradient.

    value_clip None: the squared error as it is (the full notebook). Else half the larger of two squared errors, that
    of the value and of the value clipped around the old one (the LoRA notebook).
    """
    policy_losses, value_losses, entropies = [], [], []
    for sample in minibatch:
        *steps, _ = tokens_of(policy, head, sample, temperature, places)
        for t, (lp, entropy, value) in enumerate(steps):
            ratio, advantage = (lp - sample.old[t]).exp(), sample.advantages[t]
            clipped = ratio.clamp(1 - 0.2, 1 + 0.2)
            policy_losses.append(-torch.minimum(ratio * advantage, clipped * advantage))
            error = (value - sample.returns[t]) ** 2
            if value_clip is not None:
                near = sample.values[t] + (value - sample.values[t]).clamp(-value_clip, value_clip)
                error = 0.5 * torch.maximum(error, (near - sample.returns[t]) ** 2)
            value_losses.append(error)
            entropies.append(entropy)
    means = (torch.stack(terms).mean() for terms in (policy_losses, value_losses, entropies))
    return dict(zip(("policy", "value", "entropy"), means, strict=True))


def rule_score(response: str, expected: str) -> float:
    """The LoRA notebook's reward: +1 where the answer stands in the response, else -1; less 0.002 a character."""
    text, answer = ("".join(c for c in s.lower() if not separates(c)) for s in (response, expected))
    return (1.0 if answer in text else -1.0) - 0.002 * len(text)


def separates(character: str) -> bool:
    """Tell white space and the punctuation of any script."""
    return character.isspace() or character == "`" or unicodedata.category(character).startswith("P")
