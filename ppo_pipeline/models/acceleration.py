"""What makes a loaded model fast on a CPU without changing what it computes: packed weights, kernels of our own."""

from typing import Any

from .native_layers import use_native_layers
from .packing import pack_linears, pack_policy
from .policy import Policy


def accelerate_model(model: Any) -> None:
    """Prepare a model for decoding."""
    pack_linears(model)
    use_native_layers(model)


def accelerate_policy(policy: Policy) -> None:
    """Prepare a policy and its critic for the training forward and its backward pass."""
    pack_policy(policy)
    use_native_layers(policy.model)
    if policy.separate is not None:
        use_native_layers(policy.separate.model)
