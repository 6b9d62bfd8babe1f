"""AdamW over LoRA and value head, with moments that travel from round to round by parameter name."""

import torch
from torch import Tensor, nn

from ..models.checkpoint import TrainerState
from ..models.policy import Policy
from ..sections import Update

MOMENTS = ("exp_avg", "exp_avg_sq")


def make_optimizer(policy: Policy, settings: Update, state: TrainerState) -> torch.optim.AdamW:
    """Return AdamW with `state`'s moments in place; LoRA and value head each at their own learning rate."""
    groups = [
        {"params": list(policy.lora_parameters().values()), "lr": settings.lr},
        {"params": list(policy.value_parameters().values()), "lr": settings.value_lr},
    ]
    optimizer = torch.optim.AdamW(
        groups,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_eps,
        weight_decay=settings.weight_decay,
        foreach=True,
    )
    for name, parameter in trained_parameters(policy).items():
        if f"{name}.exp_avg" in state.moments:
            kept: dict[str, Tensor] = {"step": torch.tensor(float(state.optimizer_step))}
            for moment in MOMENTS:
                kept[moment] = state.moments[f"{name}.{moment}"].to(parameter.device)
            optimizer.state[parameter] = kept
    return optimizer


def trained_parameters(policy: Policy) -> dict[str, nn.Parameter]:
    """Return every parameter that is trained, by name."""
    return {**policy.lora_parameters(), **policy.value_parameters()}


def trainer_state(policy: Policy, optimizer: torch.optim.Optimizer, steps: int) -> TrainerState:
    """Return the optimizer's moments by parameter name, with the number of steps made so far."""
    moments = {}
    for name, parameter in trained_parameters(policy).items():
        for moment in MOMENTS:
            if moment in optimizer.state[parameter]:
                moments[f"{name}.{moment}"] = optimizer.state[parameter][moment]
    return TrainerState(optimizer_step=steps, moments=moments)
