"""Settings of TRL's trainers for the comparison of learning: what its documentation recommends, and this project's.

Pages and scripts are those of TRL's repository (docs/source, examples/scripts). Temperature, lengths, LoRA's rank and
layers and the number of samples of an update are params.yaml's in both. TRL's own defaults hold for all else, weights
in fp32 (`ModelConfig.dtype`) and a linear fall of the learning rate to 0 among them.
"""

from typing import Any

from ppo_pipeline.settings.params import Params

GROUP = 8  # responses to a prompt: the default of GRPOConfig.num_generations, and for RLOO the same
DOCS: dict[str, dict[str, Any]] = {
    # The run that ppo_trainer.md validates the trainer with ("Benchmark experiments": 16 x 4 samples an update, 4
    # epochs of 1 minibatch, the "EOS trick"), whose 3e-6 for all weights peft_integration.md multiplies by 10 for LoRA.
    "ppo": {
        "learning_rate": 3e-5, "num_ppo_epochs": 4, "num_mini_batches": 1, "missing_eos_penalty": 1.0,
        "kl_coef": 0.05, "gamma": 1.0, "lam": 0.95, "vf_coef": 0.1,
    },
    # peft_integration.md: 1e-5 for GRPO with LoRA, as in lora_without_regret.md's table; the rest are defaults.
    "grpo": {"learning_rate": 1e-5, "beta": 0.0, "num_iterations": 1},
    # rloo.py, with LoRA: 1e-5, ten times the default; beta is the default.
    "rloo": {"learning_rate": 1e-5, "beta": 0.05, "num_iterations": 1},
}  # fmt: skip
LOSSES = {"token_mean": "bnpo", "sequence_mean": "grpo", "fixed_length": "dr_grpo"}


def settings_of(trainer: str, which: str, params: Params, samples: int, rounds: int) -> dict[str, Any]:
    """Return the arguments of the trainer's config; `ours`: those of params.yaml that TRL has, by TRL's names."""
    chosen = dict(DOCS[trainer]) if which == "docs" else {**_optimizer(params), **_ours(trainer, params)}
    chosen |= {"temperature": params.temperature}
    if trainer == "ppo":
        # One microbatch to a minibatch: TRL steps after gradient_accumulation_steps microbatches, be the minibatch
        # over by then or not.
        batches = {"per_device_train_batch_size": samples, "total_episodes": samples * rounds, "stop_token": "eos"}
        return {**chosen, **batches, "response_length": params.max_new_tokens}
    minibatches = params.update.minibatches if which == "ours" else 1
    steps = minibatches * chosen["num_iterations"]
    return {
        **chosen, "per_device_train_batch_size": samples // minibatches, "steps_per_generation": minibatches,
        "num_generations": min(GROUP, samples), "max_steps": rounds * steps,
        "max_completion_length": params.max_new_tokens, "gradient_checkpointing": False,  # would only cost time here
    }  # fmt: skip


def _optimizer(params: Params) -> dict[str, Any]:
    update = params.update
    return {
        "learning_rate": update.lr, "lr_scheduler_type": update.lr_schedule, "adam_beta1": update.adam_beta1,
        "adam_beta2": update.adam_beta2, "adam_epsilon": update.adam_eps, "weight_decay": update.weight_decay,
        "max_grad_norm": update.max_grad_norm or 0.0,  # PPOTrainer clips no gradient
    }  # fmt: skip


def _ours(trainer: str, params: Params) -> dict[str, Any]:
    advantage, update = params.advantage, params.update
    if trainer == "ppo":
        return {
            "kl_coef": advantage.kl_coef, "kl_estimator": advantage.kl_estimator, "gamma": advantage.gamma,
            "lam": advantage.lam, "missing_eos_penalty": advantage.missing_eos_penalty,
            "whiten_rewards": advantage.whiten_rewards != "none", "num_ppo_epochs": update.epochs,
            "num_mini_batches": update.minibatches, "cliprange": update.clip_range, "vf_coef": update.value_coef,
            "cliprange_value": 1e9 if update.value_clip_range is None else update.value_clip_range,
        }  # fmt: skip
    shared = {"beta": advantage.kl_coef, "num_iterations": update.epochs, "epsilon": update.clip_range,
              "epsilon_high": update.clip_range_high}  # fmt: skip
    if trainer == "rloo":
        return {**shared, "normalize_advantages": advantage.whiten_advantages != "none"}
    return {**shared, "loss_type": LOSSES[update.loss_normalization]}
