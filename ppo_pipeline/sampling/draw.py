"""Draw tokens from logits with one uniform number each: the inverse of the cumulative distribution."""

import torch
from torch import Tensor

BLOCK = 256


def draw(logits: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return tokens (n,) sampled from softmax(logits / temperature) and their log probabilities (n,), fp32.

    logits: (n, V). uniforms: (n,) float64 in [0, 1). A token is the first one whose cumulative probability
    exceeds its uniform. The search goes by blocks of the vocabulary: the sums of blocks first, then within one
    block, so that the cumulative sum never runs over the whole vocabulary.
    """
    n, vocabulary = logits.shape
    scaled = logits.float()
    if temperature != 1.0:
        scaled = scaled / temperature
    top = scaled.amax(dim=-1, keepdim=True)
    mass = torch.exp(scaled - top)
    padded = torch.nn.functional.pad(mass, (0, -vocabulary % BLOCK)).view(n, -1, BLOCK)
    sums = padded.sum(dim=-1).double()
    cumulative = sums.cumsum(dim=-1)
    total = cumulative[:, -1:]
    block = _first_above(cumulative, uniforms[:, None] * total)
    rest = uniforms[:, None] * total - (cumulative - sums).gather(1, block)
    rows = torch.arange(n, device=logits.device)
    within = padded[rows, block.squeeze(1)].double().cumsum(dim=-1)
    tokens = (block * BLOCK + _first_above(within, rest)).squeeze(1)
    logprobs = scaled.gather(1, tokens[:, None]) - top - total.float().log()
    return tokens, logprobs.squeeze(1)


def _first_above(cumulative: Tensor, target: Tensor) -> Tensor:
    """Return the first index (n, 1) whose cumulative sum exceeds the target, never one of zero mass.

    Rounding can put the target at or beyond the last sum: then it is the first index that reaches that sum.
    """
    index = torch.searchsorted(cumulative, target, right=True)
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous(), right=False)
    return torch.minimum(index, last)


def pick_greedy(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the most likely tokens (n,) and their log probabilities (n,), fp32, at temperature 1."""
    scaled = logits.float()
    tokens = scaled.argmax(dim=-1)
    logprobs = scaled.gather(1, tokens[:, None]).squeeze(1) - scaled.logsumexp(dim=-1)
    return tokens, logprobs
