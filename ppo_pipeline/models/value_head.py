"""The value head: one linear map from the trunk's last hidden state to a scalar."""

from torch import Tensor, nn


class ValueHead(nn.Module):
    """V = w h + b, in fp32 whatever the trunk's dtype. Starts at 0, so that the first values are 0."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return values (...,) of hidden states (..., H)."""
        values: Tensor = self.linear(hidden.to(self.linear.weight.dtype)).squeeze(-1)
        return values
