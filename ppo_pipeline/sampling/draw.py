"""Draw tokens from logits with one uniform number each: the inverse of the cumulative distribution."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..compute.native.operations import draw_tokens, serves
from .double import BLOCK, blocks, double, row_sums
from .truncation import Truncation


class Drawn(NamedTuple):
    """tokens: (n,). logprobs: (n,) fp32 under softmax(logits / temperature), untruncated. kept_mass: (n,) fp32, the
    probability under it of all tokens that could have been drawn: each was drawn with exp(logprob) / kept_mass."""

    tokens: Tensor
    logprobs: Tensor
    kept_mass: Tensor

    def on_host(self) -> "Drawn":
        """Return the same on the CPU; a GPU is waited for once, not for each of the three."""
        if self.tokens.device.type == "cpu":
            return self
        bits = [self.tokens.to(torch.int32), self.logprobs.view(torch.int32), self.kept_mass.view(torch.int32)]
        tokens, logprobs, kept = torch.stack(bits).cpu()
        return Drawn(tokens, logprobs.view(torch.float32), kept.view(torch.float32))


def draw(logits: Tensor, uniforms: Tensor, temperature: float, truncation: Truncation | None = None) -> Drawn:
    """Return tokens sampled from softmax(logits / temperature), cut to what `truncation` keeps.

    logits: (n, V). uniforms: (n,) float64 in [0, 1), on any device. A token is the first one whose cumulative
    probability exceeds its uniform. The search goes by blocks of the vocabulary: the sums of blocks first, then within
    one block, so that the cumulative sum never runs over the whole vocabulary. It is made in float64; for a device
    without, the sums and the one block go to the host.
    """
    if not truncation and serves(logits.device, logits.dtype):
        tokens, logprobs = draw_tokens(logits, uniforms, temperature)
        return Drawn(tokens, logprobs, torch.ones_like(logprobs))
    scaled = logits.float()
    if temperature != 1.0:
        scaled = scaled / temperature
    top = scaled.amax(dim=-1, keepdim=True)
    mass = torch.exp(scaled - top)
    whole = None
    if truncation:
        whole = row_sums(mass)
        mass = mass.masked_fill(~truncation.keep(mass), 0.0)
    padded = blocks(mass)
    sums = double(padded.sum(dim=-1))
    uniforms = uniforms.to(sums.device)
    cumulative = sums.cumsum(dim=-1)
    total = cumulative[:, -1:]
    block = _first_above(cumulative, uniforms[:, None] * total)
    # Not below 0, where rounding can put it: that would be the block's first token, of whatever mass.
    rest = (uniforms[:, None] * total - (cumulative - sums).gather(1, block)).clamp(min=0.0)
    rows = torch.arange(len(logits), device=logits.device)
    within = double(padded[rows, block.squeeze(1).to(logits.device)]).cumsum(dim=-1)
    tokens = (block * BLOCK + _first_above(within, rest)).to(logits.device)
    norm = total if whole is None else whole[:, None]
    logprobs = scaled.gather(1, tokens) - top - norm.float().log().to(logits.device)
    kept = torch.ones_like(uniforms) if whole is None else (total.squeeze(1) / whole).clamp(max=1.0)
    return Drawn(tokens.squeeze(1), logprobs.squeeze(1), kept.float().to(logits.device))


def _first_above(cumulative: Tensor, target: Tensor) -> Tensor:
    """Return the first index (n, 1) whose cumulative sum exceeds the target, never one of zero mass.

    Rounding can put the target at or beyond the last sum: then it is the first index that reaches that sum.
    """
    index = torch.searchsorted(cumulative, target, right=True)
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous(), right=False)
    return torch.minimum(index, last)


def pick_greedy(logits: Tensor, temperature: float) -> Drawn:
    """Return the most likely tokens; nothing else could have been drawn, so that the kept mass is their own.

    They are those of the logits as they are: of two that the division rounds to one number, the greater.
    """
    scaled = logits.float()
    tokens = scaled.argmax(dim=-1)
    if temperature != 1.0:
        scaled = scaled / temperature
    logprobs = scaled.gather(1, tokens[:, None]).squeeze(1) - scaled.logsumexp(dim=-1)
    return Drawn(tokens, logprobs, logprobs.exp())
