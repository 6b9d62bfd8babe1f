"""The policy: a frozen base with LoRA, its language-model head, and a value head on the same trunk."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..maths.logprobs import token_logprobs
from .loading import head_of, trunk_of
from .lora import LoraLinear, lora_off
from .value_head import ValueHead

# CPU attention kernels round a row differently where the width is no multiple of their vector length. With this
# multiple a sequence's logprobs are the same bits in every batch, so that the first ratio of an update is 1.
PAD_MULTIPLE = 16


class Sequences(NamedTuple):
    """Prompts with responses, padded on the right: a causal model never sees the padding.

    ids: (B, T) token ids. prompt_lengths, response_lengths: (B,) on the CPU.
    """

    ids: Tensor
    prompt_lengths: Tensor
    response_lengths: Tensor


class Scores(NamedTuple):
    """What the training forward says, response tokens of all sequences concatenated (N = their number).

    logprobs, entropy, values: (N,), V[t] being the state before token t. bootstrap: (B,) V after the last token.
    """

    logprobs: Tensor
    entropy: Tensor
    values: Tensor
    bootstrap: Tensor


@dataclass
class Policy:
    """A base model with its LoRA layers by path, and the value head."""

    model: Any
    layers: dict[str, LoraLinear]
    value_head: ValueHead

    def lora_parameters(self) -> dict[str, nn.Parameter]:
        """Return A and B of each LoRA layer by name."""
        named = {}
        for name, layer in self.layers.items():
            named[f"{name}.lora_A"] = layer.lora_A
            named[f"{name}.lora_B"] = layer.lora_B
        return named

    def value_parameters(self) -> dict[str, nn.Parameter]:
        """Return the value head's parameters by name."""
        return {f"value_head.{name}": p for name, p in self.value_head.named_parameters()}

    def score(self, batch: Sequences, temperature: float) -> Scores:
        """Run the training forward over `batch`: logprobs at `temperature`, entropies and values."""
        hidden = self._hidden(batch)
        before, after, targets = positions(batch)
        flat = hidden.flatten(0, 1)
        states = flat[before]
        logprobs, entropy = token_logprobs(states, *head_of(self.model), targets, temperature)
        return Scores(logprobs, entropy, self.value_head(states), self.value_head(flat[after]))

    def reference_logprobs(self, batch: Sequences, temperature: float) -> Tensor:
        """Return the base model's logprobs (N,): the same forward with LoRA off."""
        with lora_off(self.layers), torch.no_grad():
            before, _, targets = positions(batch)
            states = self._hidden(batch).flatten(0, 1)[before]
            return token_logprobs(states, *head_of(self.model), targets, temperature)[0]

    def _hidden(self, batch: Sequences) -> Tensor:
        output = trunk_of(self.model)(input_ids=batch.ids, use_cache=False)
        hidden: Tensor = output.last_hidden_state
        return hidden


def positions(batch: Sequences) -> tuple[Tensor, Tensor, Tensor]:
    """Return where in the flattened (B T,) batch the states before each response token are (N,), the states
    after each last token (B,), and the response tokens themselves (N,)."""
    width = batch.ids.shape[1]
    starts = torch.arange(len(batch.ids)) * width + batch.prompt_lengths
    lengths = batch.response_lengths
    first = torch.repeat_interleave(starts, lengths)
    within = torch.arange(int(lengths.sum())) - torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    tokens = (first + within).to(batch.ids.device)
    after = (starts + lengths - 1).to(batch.ids.device)
    return tokens - 1, after, batch.ids.flatten()[tokens].long()


def pad(prompts: list[Tensor], responses: list[Tensor], pad_id: int, device: torch.device) -> Sequences:
    """Join each prompt with its response and pad on the right, to a common multiple of PAD_MULTIPLE."""
    rows = [torch.cat([p, r]).long() for p, r in zip(prompts, responses, strict=True)]
    width = -(-max(len(r) for r in rows) // PAD_MULTIPLE) * PAD_MULTIPLE
    ids = torch.full((len(rows), width), pad_id)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = tokens
    return Sequences(ids.to(device), torch.tensor([len(p) for p in prompts]), torch.tensor([len(r) for r in responses]))
