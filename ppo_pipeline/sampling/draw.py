"""Draw tokens from logits with one uniform number each: the inverse of the cumulative distribution."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..native.operations import draw_tokens, serves
from .truncation import Truncation

BLOCK = 256


class Drawn(NamedTuple):
    """tokens: (n,). logprobs: (n,) fp32 under softmax(logits / temperature), untruncated. kept_mass: (n,) fp32, the
    probability under it of all tokens that could have been drawn: each was drawn with exp(logprob) / kept_mass."""

    tokens: Tensor
    logprobs: Tensor
    kept_mass: Tensor


def draw(logits: Tensor, uniforms: Tensor, temperature: float, truncation: Truncation | None = None) -> Drawn:
    """Return tokens sampled from softmax(logits / temperature), cut to what `truncation` keeps.

    logits: (n, V). uniforms: (n,) float64 in [0, 1). A token is the first one whose cumulative probability
    exceeds its uniform. The search goes by blocks of the vocabulary: the sums of blocks first, then within one
    block, so that the cumulative sum never runs over the whole vocabulary.
    """
    if not truncation and serves(logits.device, logits.dtype):
        tokens, logprobs = draw_tokens(logits, uniforms, temperature)
        return Drawn(tokens, logprobs, torch.ones_like(logprobs))
    n, vocabulary = logits.shape
    scaled = logits.float()
    if temperature != 1.0:
        scaled = scaled / temperature
    top = scaled.amax(dim=-1, keepdim=True)
    mass = torch.exp(scaled - top)
    whole = None
    if truncation:
        whole = mass.sum(dim=-1, dtype=torch.float64)
        mass = mass.masked_fill(~truncation.keep(mass), 0.0)
    padded = torch.nn.functional.pad(mass, (0, -vocabulary % BLOCK)).view(n, -1, BLOCK)
    sums = padded.sum(dim=-1).double()
    cumulative = sums.cumsum(dim=-1)
    total = cumulative[:, -1:]
    block = _first_above(cumulative, uniforms[:, None] * total)
    # Not below 0, where rounding can put it: that would be the block's first token, of whatever mass.
    rest = (uniforms[:, None] * total - (cumulative - sums).gather(1, block)).clamp(min=0.0)
    rows = torch.arange(n, device=logits.device)
    within = padded[rows, block.squeeze(1)].double().cumsum(dim=-1)
    tokens = (block * BLOCK + _first_above(within, rest)).squeeze(1)
    norm = total if whole is None else whole[:, None]
    logprobs = scaled.gather(1, tokens[:, None]) - top - norm.float().log()
    kept = torch.ones_like(uniforms) if whole is None else (total.squeeze(1) / whole).clamp(max=1.0)
    return Drawn(tokens, logprobs.squeeze(1), kept.float())


def _first_above(cumulative: Tensor, target: Tensor) -> Tensor:
    """Return the first index (n, 1) whose cumulative sum exceeds the target, never one of zero mass.

    Rounding can put the target at or beyond the last sum: then it is the first index that reaches that sum.
    """
    index = torch.searchsorted(cumulative, target, right=True)
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous(), right=False)
    return torch.minimum(index, last)


def pick_greedy(logits: Tensor, temperature: float) -> Drawn:
    """Return the most likely tokens; nothing else could have been drawn, so that the kept mass is their own."""
    scaled = logits.float()
    if temperature != 1.0:
        scaled = scaled / temperature
    tokens = scaled.argmax(dim=-1)
    logprobs = scaled.gather(1, tokens[:, None]).squeeze(1) - scaled.logsumexp(dim=-1)
    return Drawn(tokens, logprobs, logprobs.exp())
