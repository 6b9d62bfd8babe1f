"""The policy: a frozen base with LoRA, or a whole trained model; and the critic, which gives values."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from .checkpointing import checkpoint_blocks
from .loading import backbone_of, head_of, logit_divisor
from .logprobs import token_logprobs
from .lora import LoraLinear, lora_off
from .packed import Layout, packed_hidden, packed_layout, tree_layout
from .prefix import prefix_tree
from .value_head import ValueHead

# Elementwise operations of torch may round the numbers behind the last whole vector differently, and attention over
# padded rows does at widths that are no multiple of one. With this multiple nothing stands behind.
PAD_MULTIPLE = 16


class Sequences(NamedTuple):
    """Prompts with responses: packed in one row, what they have in common once, or one row each.

    ids: (1, N) or, padded on the right, (B, T) token ids; a causal model never sees the padding. starts: (B,) place of
    each sequence in the flattened ids; prompt_lengths (less what is shared), response_lengths: (B,). These three
    are on the CPU. layout: of the one row, or None.
    """

    ids: Tensor
    starts: Tensor
    prompt_lengths: Tensor
    response_lengths: Tensor
    layout: Layout | None = None


class Scores(NamedTuple):
    """What the training forward says, response tokens of all sequences concatenated (N = their number).

    logprobs, entropy, values: (N,), V[t] being the state before token t. bootstrap: (B,) V after the last token.
    Without a critic values and bootstrap are None.
    """

    logprobs: Tensor
    entropy: Tensor
    values: Tensor | None
    bootstrap: Tensor | None


@dataclass
class SeparateCritic:
    """A backbone of the critic's own: LoRA over the policy's base weights, or with `layers` empty a whole model."""

    model: Any
    layers: dict[str, LoraLinear]


@dataclass
class Policy:
    """A base model with its LoRA layers by path (none: the whole model is trained), value head, separate critic.

    sharded: whether a process holds a part of each parameter only, as training/sharded.py has it.
    """

    sharded: ClassVar[bool] = False
    model: Any
    layers: dict[str, LoraLinear]
    value_head: ValueHead | None = None
    separate: SeparateCritic | None = None

    @property
    def critic(self) -> str:
        """Return shared, separate or none, as in params.yaml."""
        return "none" if self.value_head is None else "shared" if self.separate is None else "separate"

    def policy_parameters(self) -> dict[str, nn.Parameter]:
        """Return what is trained of the policy by name: A and B of each LoRA layer, or every weight."""
        return lora_parameters(self.layers) if self.layers else dict(self.model.named_parameters())

    def value_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters of value head and separate critic by name."""
        if self.value_head is None:
            return {}
        named = {f"value_head.{name}": p for name, p in self.value_head.named_parameters()}
        if self.separate is not None:
            own = lora_parameters(self.separate.layers) or dict(backbone_of(self.separate.model).named_parameters())
            named |= {f"critic.{name}": p for name, p in own.items()}
        return named

    def shapes(self) -> dict[str, torch.Size]:
        """Return the shape of every trained parameter by name."""
        return {name: p.shape for name, p in {**self.policy_parameters(), **self.value_parameters()}.items()}

    def part(self, name: str, tensor: Tensor) -> Tensor:
        """Return what this process trains of a tensor in the shape of the parameter `name`: all, on its device."""
        return tensor.to(self.model.device)

    def whole(self, name: str, tensor: Tensor) -> Tensor | None:
        """Return, where files are written, the whole of a tensor like this process's part of the parameter `name`."""
        return tensor

    def assembled(self) -> "Policy | None":
        """Return, where files are written, the policy with whole parameters."""
        return self

    def all_layers(self) -> list[LoraLinear]:
        """Return the LoRA layers of policy and critic."""
        return [*self.layers.values(), *(self.separate.layers.values() if self.separate else ())]

    def score(self, batch: Sequences, temperature: float, with_values: bool = True) -> Scores:
        """Run the training forward over `batch`: logprobs at `temperature`, entropies and values."""
        before, after, targets = positions(batch)
        flat = hidden_states(self.model, batch)
        divisor = logit_divisor(self.model) * temperature
        logprobs, entropy = token_logprobs(flat[before], *head_of(self.model), targets, divisor)
        if self.value_head is None or not with_values:
            return Scores(logprobs, entropy, None, None)
        if self.separate is not None:
            flat = hidden_states(self.separate.model, batch)
        return Scores(logprobs, entropy, self.value_head(flat[before]), self.value_head(flat[after]))

    def reference_logprobs(self, batch: Sequences, temperature: float) -> Tensor:
        """Return the base model's logprobs (N,): the same forward with LoRA off."""
        assert self.layers, "a model that is trained as a whole has no reference inside"
        with lora_off(self.layers):
            return model_logprobs(self.model, batch, temperature)

    def save_memory(self) -> None:
        """Keep no activations within the blocks of policy and critic: the backward pass computes them again.

        Raises PipelineError for an architecture that transformers cannot do this for.
        """
        for model in [self.model, *([self.separate.model] if self.separate else ())]:
            checkpoint_blocks(model)


def lora_parameters(layers: dict[str, LoraLinear]) -> dict[str, nn.Parameter]:
    """Return A and B of each LoRA layer by name."""
    named = {}
    for name, layer in layers.items():
        named[f"{name}.lora_A"] = layer.lora_A
        named[f"{name}.lora_B"] = layer.lora_B
    return named


def hidden_states(model: Any, batch: Sequences) -> Tensor:
    """Return the model's last hidden states, flattened (B T, H)."""
    if batch.layout is not None:
        return packed_hidden(model, batch.ids, batch.layout)[0]
    hidden: Tensor = backbone_of(model)(input_ids=batch.ids, use_cache=False).last_hidden_state
    return hidden.flatten(0, 1)


@torch.no_grad()
def model_logprobs(model: Any, batch: Sequences, temperature: float) -> Tensor:
    """Return the logprobs (N,) of the response tokens under a plain model, without gradients."""
    before, _, targets = positions(batch)
    flat = hidden_states(model, batch)
    divisor = logit_divisor(model) * temperature
    return token_logprobs(flat[before], *head_of(model), targets, divisor, with_entropy=False)[0]


def positions(batch: Sequences) -> tuple[Tensor, Tensor, Tensor]:
    """Return where in the flattened (B T,) batch the states before each response token are (N,), the states
    after each last token (B,), and the response tokens themselves (N,)."""
    starts, lengths = batch.starts + batch.prompt_lengths, batch.response_lengths
    first = torch.repeat_interleave(starts, lengths)
    within = torch.arange(int(lengths.sum())) - torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    tokens = (first + within).to(batch.ids.device)
    after = (starts + lengths - 1).to(batch.ids.device)
    return tokens - 1, after, batch.ids.flatten()[tokens].long()


def pad(prompts: list[Tensor], responses: list[Tensor], pad_id: int, device: torch.device) -> Sequences:
    """Join each prompt with its response and pad on the right, to a common multiple of PAD_MULTIPLE."""
    rows = [torch.cat([p, r]).long() for p, r in zip(prompts, responses, strict=True)]
    width = _multiple(max(len(r) for r in rows))
    ids = torch.full((len(rows), width), pad_id)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = tokens
    return Sequences(ids.to(device), torch.arange(len(rows)) * width, _lengths(prompts), _lengths(responses))


def pack(prompts: list[Tensor], responses: list[Tensor], pad_id: int, device: torch.device, prefix: int) -> Sequences:
    """Lay each prompt with its response one behind the other; the first `prefix` tokens, the same in all, come once."""
    before, after = _lengths(prompts) - prefix, _lengths(responses)
    lengths = before + after
    tokens = [prompts[0][:prefix], *(part for p, r in zip(prompts, responses, strict=True) for part in (p[prefix:], r))]
    total = _multiple(prefix + int(lengths.sum()))
    ids = torch.full((1, total), pad_id)
    ids[0, : prefix + int(lengths.sum())] = torch.cat(tokens).long()
    width = _multiple(int(lengths.max()) + prefix) - prefix
    layout = packed_layout(lengths, prefix, total, width, device)
    return Sequences(ids.to(device), prefix + lengths.cumsum(0) - lengths, before, after, layout)


def pack_tree(
    prompts: list[Tensor], responses: list[Tensor], pad_id: int, device: torch.device, before: int = 0
) -> Sequences:
    """Lay prompts and responses one behind the other, what any prompts share at their start once.

    before: so many tokens, the same in all, stand before the row: the layout counts them, `ids` has none of them.
    """
    prompts = [prompt[before:] for prompt in prompts]
    tree = prefix_tree([prompt.tolist() for prompt in prompts])
    parts = [prompts[branch.prompt][branch.begin : branch.end] for branch in tree]
    row = [torch.cat([part, responses[b.prompt]]) if b.leaf else part for part, b in zip(parts, tree, strict=True)]
    lengths = [len(part) for part in row]
    total = _multiple(sum(lengths))
    ids = torch.full((1, total), pad_id)
    ids[0, : sum(lengths)] = torch.cat(row).long()
    parents = [branch.parent for branch in tree]
    leaves = [place for _, place in sorted((b.prompt, place) for place, b in enumerate(tree) if b.leaf)]
    own = _lengths([parts[place] for place in leaves])
    starts = torch.tensor([0, *lengths]).cumsum(0)[leaves]
    if before:
        lengths, parents = [before, *lengths], [-1, *(parent + 1 for parent in parents)]
    layout = tree_layout(lengths, parents, before + total, device)
    return Sequences(ids.to(device), starts, own, _lengths(responses), layout)


def _lengths(rows: list[Tensor]) -> Tensor:
    return torch.tensor([len(row) for row in rows])


def _multiple(tokens: int) -> int:
    return -(-tokens // PAD_MULTIPLE) * PAD_MULTIPLE
