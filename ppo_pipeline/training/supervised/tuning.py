"""A base model made ready for supervised training: LoRA beside it, or all of its weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...errors import PipelineError
from ...models.acceleration import accelerate_policy
from ...models.fresh import fresh_lora
from ...models.policy import Policy
from ...models.trial import try_whole
from ...settings.supervised_sections import Supervised


def trainable(model: Any, settings: Supervised, section: str) -> tuple[Policy, list[str]]:
    """Return a loaded model as it is trained, and the kinds of layers without LoRA, or weights without gradient.

    section: of params.yaml, as errors name it.
    """
    with told_of(section):
        policy = Policy(model, {})
        if settings.tuning == "lora":
            policy.layers, left_out = fresh_lora(policy.model, settings, settings.seed)
        else:
            policy.model.requires_grad_(True)
            left_out = try_whole(policy)
        accelerate_policy(policy)
        if settings.gradient_checkpointing:
            policy.save_memory()
    return policy, left_out


@contextmanager
def told_of(section: str) -> Iterator[None]:
    """Within the block errors about settings of `policy` and `update` name those of `section`, which it has too."""
    try:
        yield
    except PipelineError as error:
        text = error.message
        for of in ("policy.target_modules", "policy.tuning", "update.gradient_checkpointing"):
            text = text.replace(of, f"{section}.{of.partition('.')[2]}")
        raise PipelineError(text) from None


@contextmanager
def dropout_on(policy: Policy) -> Iterator[None]:
    """Within the block LoRA's dropout is on; the base's own stays off."""
    for layer in policy.all_layers():
        layer.dropout.train()
    try:
        yield
    finally:
        for layer in policy.all_layers():
            layer.dropout.eval()
