"""Truncated sampling: top-k, top-p (Holtzman et al. 2019) and min-p (Nguyen et al. 2024), as transformers does them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .double import double, row_sums

FIRST = 1024


@dataclass(frozen=True)
class Truncation:
    """Which tokens can be drawn; None leaves a rule out. False where no rule is set.

    The rules run in transformers' order: top_k, then top_p of what that left, then min_p. At least the likeliest
    token is kept. Each rule keeps all tokens as likely as its last one (transformers' top_p leaves to its sort which
    of them go), so that what is kept depends on the row alone; bf16 logits are often equal.
    """

    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __bool__(self) -> bool:
        return self.top_k is not None or (self.top_p is not None and self.top_p < 1) or self.min_p is not None

    def keep(self, mass: Tensor) -> Tensor:
        """Return which tokens are kept (n, V), from their probabilities up to a factor per row (n, V)."""
        kept = torch.ones_like(mass, dtype=torch.bool)
        if self.top_k is not None and self.top_k < mass.shape[-1]:
            least = mass.topk(self.top_k, dim=-1).values[:, -1:]
            kept &= mass >= least
        if self.top_p is not None and self.top_p < 1:
            kept &= _likeliest(mass * kept, self.top_p)
        if self.min_p is not None:
            kept &= mass >= self.min_p * mass.amax(dim=-1, keepdim=True)
        return kept


def _likeliest(mass: Tensor, share: float) -> Tensor:
    """Return the fewest tokens, likeliest first, that hold `share` of each row's mass, and those as likely as the last.

    The first thousand nearly always do; only where they do not, the whole vocabulary is sorted.
    """
    needed = share * row_sums(mass)[:, None]
    count = min(FIRST, mass.shape[-1])
    values = mass.topk(count, dim=-1).values
    wide = double(values)
    sums = wide.cumsum(dim=-1)
    if count < mass.shape[-1] and bool((sums[:, -1:] < needed).any()):
        values = mass.sort(dim=-1, descending=True).values
        wide = double(values)
        sums = wide.cumsum(dim=-1)
    # A token is kept where the mass before it is not yet enough.
    last = (sums - wide < needed).sum(dim=-1, keepdim=True) - 1
    return mass >= values.gather(1, last.to(mass.device))
