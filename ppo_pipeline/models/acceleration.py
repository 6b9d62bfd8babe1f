"""What makes a loaded model fast on a CPU without changing what it computes: packed weights, kernels of our own.

And what makes a row of a training forward the same bits in every batch: products by native/row_invariant.py.
"""

from typing import Any

from ..compute.native.row_invariant import make_row_invariant
from .native_layers import use_native_layers
from .policy import Policy
from .prepacked import prepack_linears, prepack_policy


def accelerate_model(model: Any) -> None:
    """Prepare a model for decoding."""
    prepack_linears(model)
    use_native_layers(model)


def accelerate_policy(policy: Policy) -> None:
    """Prepare a policy and its critic for the training forward and its backward pass."""
    prepack_policy(policy)
    for model in [policy.model, *([policy.separate.model] if policy.separate else ())]:
        accelerate_forward(model)
    if policy.value_head is not None:
        make_row_invariant(policy.value_head)


def accelerate_forward(model: Any) -> None:
    """Prepare a model for the training forward alone; its packed weights stay packed, plain ones plain."""
    use_native_layers(model)
    make_row_invariant(model, but=model.get_output_embeddings())
