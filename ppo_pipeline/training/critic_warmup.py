"""Rounds in which the critic alone learns, before the policy's first step.

A fresh value head says 0 of every state, and a policy that follows it learns from a baseline that is none. So in the
first rounds the policy stays as it is, and the critic is fitted to the returns of what it samples. Source: VC-PPO
(Yuan et al. 2025, arXiv:2503.01491, value pretraining) and VAPO (Yue et al. 2025, arXiv:2504.05118, 50 such steps);
verl's `trainer.critic_warmup` leaves the actor's update out in the same way.
"""

from ..models.policy import Policy
from ..settings.learning_sections import Update
from ..settings.stage_settings import UpdateSettings


def settings_of_round(s: UpdateSettings) -> Update:
    """Return the settings that the round's update is made with; where the critic learns alone, those for that.

    The value moves as far as it must then (no value_clip_range), and nothing of the policy's loss is computed that
    has no part in the critic's. The critic's learning rate, value_coef and so Adam's moments are as in later rounds.
    """
    if not s.critic_alone:
        return s.update
    changes = {
        "epochs": s.update.critic_warmup_epochs, "value_clip_range": None, "target_kl": None, "entropy_coef": 0.0,
        "kl_loss_coef": 0.0, "rollout_correction": None,
    }  # fmt: skip
    return s.update.model_copy(update=changes)


def freeze_policy(policy: Policy) -> None:
    """Leave the policy's parameters without gradients; a shared critic is then its value head alone."""
    for parameter in policy.policy_parameters().values():
        parameter.requires_grad_(False)
