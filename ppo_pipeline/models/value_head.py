"""The value head: one linear map from the backbone's last hidden state to a scalar."""

import numpy as np
import torch
from torch import Tensor, nn


class _OneOutput(nn.Linear):
    """A linear map to one number, written out: a matrix library's sums depend, on a CPU, on the number of threads."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x w + b (..., 1) of x (..., H)."""
        return (x * self.weight[0]).sum(-1, keepdim=True) + self.bias


class ValueHead(nn.Module):
    """V = w h + b, in fp32 whatever the backbone's dtype. Starts at 0; `init_value_head` draws other weights."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = _OneOutput(hidden_size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return values (...,) of hidden states (..., H)."""
        values: Tensor = self.linear(hidden.to(self.linear.weight.dtype)).squeeze(-1)
        return values


def init_value_head(head: ValueHead, how: str, std: float | None, seed: int) -> None:
    """Set the first weights: zero; normal: w ~ N(0, std^2), b = 0; uniform: w, b ~ U(-1/sqrt(H), 1/sqrt(H)).

    uniform is the distribution of torch's nn.Linear. Drawn by numpy: torch's normal numbers differ between CPUs.
    """
    rng, width = np.random.default_rng(seed), head.linear.in_features
    weight, bias = np.zeros((1, width)), np.zeros(1)
    if how == "normal":
        weight = rng.normal(0.0, std or 0.0, (1, width))
    elif how == "uniform":
        bound = width**-0.5
        weight, bias = rng.uniform(-bound, bound, (1, width)), rng.uniform(-bound, bound, 1)
    with torch.no_grad():
        head.linear.weight.copy_(torch.from_numpy(weight))
        head.linear.bias.copy_(torch.from_numpy(bias))
