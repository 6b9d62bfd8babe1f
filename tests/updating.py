"""Policies, samples and targets for tests of the update."""

from dataclasses import replace

import numpy as np
import torch
from conftest import targets_of, tiny_model

from ppo_pipeline.models.checkpoint import TrainerState
from ppo_pipeline.models.lora import add_lora, copy_with_same_weights, init_lora
from ppo_pipeline.models.policy import Policy, SeparateCritic
from ppo_pipeline.models.value_head import ValueHead
from ppo_pipeline.settings.learning_sections import Update
from ppo_pipeline.training.chosen import chosen
from ppo_pipeline.training.data import Sampled
from ppo_pipeline.training.loss_inputs import LossInputs
from ppo_pipeline.training.optimizer import make_optimizer, trained_parameters
from ppo_pipeline.training.ppo import PPO

TEMPERATURE = 0.8


def update_settings(**changes: object) -> Update:
    values = {
        "lr": 0.01, "value_lr": 0.02, "optimizer": "adamw",
        "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_eps": 1e-5, "weight_decay": 0.0,
        "critic_warmup_rounds": 0, "critic_warmup_epochs": 4,
        "epochs": 2, "minibatches": 2, "microbatch_tokens": 64, "gradient_groups": 1, "clip_range": 0.2,
        "value_clip_range": 0.2, "value_coef": 0.1, "entropy_coef": 0.01, "max_grad_norm": 1.0,
        "lr_schedule": "constant", "warmup_rounds": 0,
        "schedule_rounds": None, "gradient_checkpointing": False, "clip_range_high": None, "dual_clip": None,
        "policy_loss": "ppo",
        "loss_normalization": "token_mean", "mask_truncated": False, "target_kl": None, "kl_loss_coef": 0.0,
        "rollout_correction": None, "rollout_correction_max": None, "rollout_correction_min": None,
        "kl_loss_estimator": "k3", "likelihood_coef": 0.0, "average_rounds": 1,
    }  # fmt: skip
    return Update(**{**values, **changes})


def make_policy(architecture: str = "llama", std: float = 0.05, tuning: str = "lora", critic: str = "shared") -> Policy:
    """Return a policy as after some training: B of LoRA and the value head's weight are not 0."""
    model = tiny_model(architecture).requires_grad_(tuning == "full")
    separate, layers = None, {}
    if critic == "separate":
        twin = copy_with_same_weights(model) if tuning == "lora" else tiny_model(architecture, seed=3)
        own = add_lora(twin, targets_of(architecture), 4, 8, 0.0) if tuning == "lora" else {}
        separate = SeparateCritic(twin, own)
    if tuning == "lora":
        layers = add_lora(model, targets_of(architecture), 4, 8, 0.0)
    policy = Policy(model, layers, None if critic == "none" else ValueHead(32), separate)
    for seed, part in enumerate((layers, separate.layers if separate else {}), start=1):
        init_lora(part, seed)
    torch.manual_seed(2)
    with torch.no_grad():
        for layer in policy.all_layers():
            layer.lora_B.normal_(std=std)
        if policy.value_head is not None:
            policy.value_head.linear.weight.normal_(std=0.1)
    return policy


def make_data(count: int = 7) -> Sampled:
    rng = np.random.default_rng(0)
    prompts = [torch.tensor(rng.integers(0, 256, rng.integers(1, 9)), dtype=torch.int32) for _ in range(count)]
    responses = [torch.tensor(rng.integers(0, 256, rng.integers(1, 12)), dtype=torch.int32) for _ in range(count)]
    return Sampled([f"s{i}" for i in range(count)], prompts, responses)


@torch.no_grad()
def old_numbers(policy: Policy, data: Sampled) -> tuple[list[torch.Tensor], list[torch.Tensor] | None]:
    scores = policy.score(data.sequences(np.arange(len(data.sample_ids)), 0, torch.device("cpu")), TEMPERATURE)
    lengths = [len(r) for r in data.responses]
    values = None if scores.values is None else list(scores.values.split(lengths))
    return list(scores.logprobs.split(lengths)), values


def make_targets(policy: Policy, data: Sampled) -> LossInputs:
    logprobs, values = old_numbers(policy, data)
    generator = torch.Generator().manual_seed(5)
    advantages = [torch.randn(len(r), generator=generator) for r in data.responses]
    returns = [torch.randn(len(r), generator=generator) for r in data.responses]
    return LossInputs(logprobs, values, advantages, None if values is None else returns)


def weights_of(data: Sampled) -> list[torch.Tensor]:
    """Return weights as of a rollout correction that masks: 0, or 0.8 to 1.5."""
    waves = [1 + 0.5 * torch.cos(2.0 * torch.arange(len(r)) + i) for i, r in enumerate(data.responses)]
    return [torch.where(wave < 0.8, 0.0, wave) for wave in waves]


CUT, RIGHT = (1, 4), (0, 2, 6)  # of the responses


def with_chosen(targets: LossInputs, data: Sampled) -> LossInputs:
    """Return targets of which CUT do not teach the policy, and RIGHT are right answers."""
    every = range(len(data.responses))
    taught, right = [i not in CUT for i in every], [i in RIGHT for i in every]
    return replace(targets, taught=chosen(taught, data.responses), right=chosen(right, data.responses))


def run(policy: Policy, settings: Update, data: Sampled, targets: LossInputs, state: TrainerState | None = None):
    optimizer = make_optimizer(policy, settings, state or TrainerState())
    ppo = PPO(policy, optimizer, settings, TEMPERATURE, pad_id=0)
    ppo.run(data, targets, ("seed", "r001"))
    return ppo, optimizer


def parameters_of(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trained_parameters(policy).items()}
