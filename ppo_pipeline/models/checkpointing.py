"""Gradient checkpointing (Chen et al. 2016, arXiv:1604.06174): a block's activations are computed again, not kept.

transformers checkpoints a block only in training mode, which in many architectures (OPT, BioGPT, XGLM) turns dropout
on. Here the blocks' calls are wrapped instead, and no module is in training mode.
"""

from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..errors import PipelineError


def checkpoint_blocks(model: Any) -> None:
    """Keep no activations within the model's blocks: the backward pass computes them again, to the same bits.

    Raises PipelineError where transformers does not know the model's blocks, or says that this cannot be done.
    """
    found = blocks_of(model) if getattr(model, "supports_gradient_checkpointing", False) else []
    if not found:
        raise PipelineError(
            f"params.yaml: update.gradient_checkpointing: {type(model).__name__} does not support it; set it to false."
        )
    for block in found:
        block.forward = _checkpointed(block.forward)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the model's blocks as transformers marks them, the outermost where one is inside another."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, GradientCheckpointingLayer) and not inside:
            found[name] = module
    return list(found.values())


def _checkpointed(forward: Any) -> Any:
    @wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run
