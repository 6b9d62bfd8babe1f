"""What TRL and verl call the settings: one table, for docs/params.md and for `did you mean`.

Of TRL 1.12.0: PPOConfig and GRPOConfig with transformers' TrainingArguments behind them, ModelConfig, ScriptArguments.
Of verl: verl/trainer/config/_generated_ppo_trainer.yaml at b178a3c, where `actor.`, `rollout.` and `model.` stand for
`actor_rollout_ref.actor.` and so on. tests/settings/test_other_names.py holds TRL's beside its source.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Names:
    """A setting here, and its names there, empty where they have none; how it differs, where it does."""

    here: str
    ppo: str = ""
    grpo: str = ""
    verl: str = ""
    differs: str = ""

    @property
    def there(self) -> list[tuple[str, str]]:
        """The names with whose they are."""
        found = (("TRL's PPOConfig", self.ppo), ("TRL's GRPOConfig", self.grpo), ("verl", self.verl))
        return [(whose, name) for whose, names in found for name in names.split(", ") if name]


MODEL = "model_name_or_path"
TABLE = (
    Names("seed", "seed", "seed", "data.seed"),
    Names("rounds", "total_episodes", "max_steps", "trainer.total_training_steps", "rounds are listed, each by name"),
    Names("base.model", MODEL, MODEL, "model.path"),
    Names("base.revision", "model_revision", "model_revision"),
    Names("base.trust_remote_code", "", "trust_remote_code", "model.trust_remote_code"),
    Names("prompts.source", "dataset_name", "dataset_name", "data.train_files", "a file or folder"),
    Names("policy.start", "sft_model_path", "", "", "data/sft/NAME, which the section sft makes"),
    Names("policy.tuning", "use_peft", "use_peft", "", "lora or full"),
    Names("policy.rank", "lora_r", "lora_r", "model.lora_rank"),
    Names("policy.alpha", "lora_alpha", "lora_alpha", "model.lora_alpha"),
    Names("policy.dropout", "lora_dropout", "lora_dropout"),
    Names("policy.target_modules", "lora_target_modules", "lora_target_modules", "model.target_modules"),
    Names("policy.use_rslora", "use_rslora", "use_rslora"),
    Names("compute.dtype", "bf16", "bf16", "", "auto, bf16, fp16 or fp32"),
    Names("compute.head", "", "cast_lm_head_to_fp32", "", "auto or fp32"),
    Names("rollout.engine", "", "use_vllm", "rollout.name", "own or vllm"),
    Names(
        "rollout.prompts_per_round", "batch_size", "generation_batch_size", "data.train_batch_size",
        "prompts; theirs count responses in TRL",
    ),
    Names("rollout.samples_per_prompt", "", "num_generations", "rollout.n"),
    Names("rollout.max_prompt_tokens", "", "", "data.max_prompt_length"),
    Names("rollout.max_new_tokens", "response_length", "max_completion_length", "data.max_response_length"),
    Names("rollout.temperature", "temperature", "temperature", "rollout.temperature"),
    Names("rollout.top_k", "", "top_k", "rollout.top_k", "null for all"),
    Names("rollout.top_p", "", "top_p", "rollout.top_p", "null for all"),
    Names("rollout.min_p", "", "min_p"),
    Names("rollout.greedy", "", "", "rollout.do_sample", "the opposite"),
    Names("rollout.stop_tokens", "stop_token", "", "", "a list of further ones"),
    Names("rollout.batch_size", "local_rollout_forward_batch_size", "", "rollout.max_num_seqs"),
    Names(
        "reward.components", "reward_model_path", "reward_weights",
        "reward_model.model.path, custom_reward_function.path",
        "a list, each with its weight: a function, a rule, a model, a service",
    ),
    Names("advantage.estimator", "", "", "algorithm.adv_estimator"),
    Names("advantage.kl_coef", "kl_coef", "", "algorithm.kl_ctrl.kl_coef"),
    Names("advantage.kl_estimator", "kl_estimator", "", "algorithm.kl_penalty"),
    Names("advantage.kl_target", "", "", "algorithm.kl_ctrl.target_kl", "null: kl_coef is fixed"),
    Names("advantage.kl_horizon", "", "", "algorithm.kl_ctrl.horizon"),
    Names("advantage.missing_eos_penalty", "missing_eos_penalty"),
    Names("advantage.whiten_rewards", "whiten_rewards", "", "", "variance where theirs is true"),
    Names("advantage.gamma", "gamma", "", "algorithm.gamma"),
    Names("advantage.lambda", "lam", "", "algorithm.lam"),
    Names("update.lr", "learning_rate", "learning_rate", "actor.optim.lr"),
    Names("update.value_lr", "", "", "critic.optim.lr"),
    Names(
        "update.lr_schedule", "lr_scheduler_type", "lr_scheduler_type", "actor.optim.lr_scheduler_type",
        "over rounds, not steps",
    ),
    Names("update.warmup_rounds", "warmup_steps", "warmup_steps", "actor.optim.lr_warmup_steps", "rounds, not steps"),
    Names("update.optimizer", "optim", "optim"),
    Names("update.adam_beta1", "adam_beta1", "adam_beta1", "actor.optim.betas"),
    Names("update.adam_beta2", "adam_beta2", "adam_beta2", "actor.optim.betas"),
    Names("update.adam_eps", "adam_epsilon", "adam_epsilon"),
    Names("update.weight_decay", "weight_decay", "weight_decay", "actor.optim.weight_decay"),
    Names("update.critic_warmup_rounds", "", "", "trainer.critic_warmup", "rounds, not steps"),
    Names("update.epochs", "num_ppo_epochs", "num_iterations", "actor.ppo_epochs"),
    Names("update.minibatches", "num_mini_batches", "", "actor.ppo_mini_batch_size", "how many; verl's is a size"),
    Names(
        "update.microbatch_tokens", "per_device_train_batch_size", "per_device_train_batch_size",
        "actor.ppo_max_token_len_per_gpu", "tokens; TRL's are samples",
    ),
    Names(
        "update.gradient_checkpointing", "gradient_checkpointing", "gradient_checkpointing",
        "model.enable_gradient_checkpointing",
    ),
    Names(
        "update.policy_loss", "", "importance_sampling_level", "actor.policy_loss.loss_mode", "gspo is TRL's sequence",
    ),
    Names("update.clip_range", "cliprange", "epsilon", "actor.clip_ratio"),
    Names("update.clip_range_high", "", "epsilon_high", "actor.clip_ratio_high"),
    Names("update.dual_clip", "", "delta", "actor.clip_ratio_c"),
    Names("update.loss_normalization", "", "loss_type", "actor.loss_agg_mode"),
    Names("update.mask_truncated", "", "mask_truncated_completions"),
    Names(
        "update.rollout_correction", "", "vllm_importance_sampling_mode", "algorithm.rollout_correction.rollout_is",
        "null: none",
    ),
    Names(
        "update.rollout_correction_max", "", "vllm_importance_sampling_clip_max",
        "algorithm.rollout_correction.rollout_is_threshold",
    ),
    Names("update.rollout_correction_min", "", "vllm_importance_sampling_clip_min"),
    Names("update.kl_loss_coef", "", "beta", "actor.kl_loss_coef"),
    Names("update.kl_loss_estimator", "", "", "actor.kl_loss_type", "k3 is verl's low_var_kl"),
    Names("update.value_clip_range", "cliprange_value", "", "critic.cliprange_value"),
    Names("update.value_coef", "vf_coef"),
    Names("update.entropy_coef", "", "entropy_coef", "actor.entropy_coeff"),
    Names("update.max_grad_norm", "max_grad_norm", "max_grad_norm", "actor.grad_clip"),
    Names("evaluate.max_prompts", "", "", "data.val_max_samples", "0 for all"),
    Names("evaluate.samples_per_prompt", "", "num_generations_eval", "rollout.val_kwargs.n", "besides the greedy one"),
    Names("vllm.tensor_parallel", "", "vllm_tensor_parallel_size", "rollout.tensor_model_parallel_size"),
    Names("vllm.gpu_memory", "", "vllm_gpu_memory_utilization", "rollout.gpu_memory_utilization"),
)  # fmt: skip
VERL_SECTIONS = (
    "actor_rollout_ref",
    "algorithm",
    "critic",
    "data",
    "trainer",
    "reward_manager",
    "custom_reward_function",
)


def called_here(name: str) -> str:
    """Return ``" `beta` of TRL's GRPOConfig is update.kl_loss_coef here."`` for a name of theirs, else nothing."""
    if name in VERL_SECTIONS:
        return f" `{name}` is a section of verl's; docs/params.md has a table of what its settings are called here."
    found: dict[str, list[str]] = {}
    for names in TABLE:
        owners = [whose for whose, other in names.there if other.rpartition(".")[2] == name]
        if owners:
            found[names.here] = list(dict.fromkeys(owners))
    told = [f"`{name}` of {' and '.join(owners)} is {here} here" for here, owners in found.items()]
    return f" {'; '.join(told)}." if told else ""
