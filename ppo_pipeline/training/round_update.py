"""A round's update from a checkpoint to the next one: PPO with what its settings ask for, and the state it leaves."""

import torch

from ..models.checkpoint import TrainerState
from ..models.policy import Policy
from ..settings.stage_settings import UpdateSettings
from ..tables.controllers import Controllers
from .optimizer import make_optimizer, moments_of
from .ppo import PPO, loss_scaler


def ppo_of(policy: Policy, state: TrainerState, settings: UpdateSettings, factor: float, dtype: torch.dtype) -> PPO:
    """Return PPO on `policy`, going on from the parent's `state`; factor: of the learning rates, by their schedule."""
    s, device = settings.update, policy.model.device
    ppo = PPO(
        policy, make_optimizer(policy, s, state, factor), s, settings.temperature, 0, settings.max_new_tokens,
        loss_scaler(device, dtype, state.loss_scale, state.loss_scale_streak), settings.whiten_minibatches,
    )  # fmt: skip
    if s.gradient_checkpointing:
        policy.save_memory()
    return ppo


def state_after(ppo: PPO, before: TrainerState, controllers: Controllers, learns_values: bool) -> TrainerState:
    """Return what training goes on from after the update."""
    scaler = ppo.scaler
    return TrainerState(
        optimizer_step=before.optimizer_step + ppo.steps,
        value_step=before.value_step + (ppo.steps if learns_values else 0),
        loss_scale=scaler.get_scale() if scaler.is_enabled() else None,
        loss_scale_streak=scaler.state_dict()["_growth_tracker"] if scaler.is_enabled() else 0,
        controllers=controllers,
        moments=moments_of(ppo.policy, ppo.optimizer),
    )
