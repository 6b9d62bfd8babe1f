"""Settings of supervised training for tests."""

from typing import Any

from ppo_pipeline.settings.supervised_sections import Sft, Supervised

VALUES = {
    "seed": 3, "tuning": "lora", "rank": 4, "alpha": 8.0, "use_rslora": False, "dropout": 0.0,
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], "lr": 0.05,
    "lr_schedule": "constant", "warmup_ratio": 0.0, "adam_beta1": 0.9, "adam_beta2": 0.99, "adam_eps": 1e-8,
    "weight_decay": 0.1, "max_grad_norm": 0.5, "epochs": 2, "batch_size": 4, "microbatch_tokens": 8,
    "gradient_checkpointing": False, "max_tokens": 64, "too_long": "error",
}  # fmt: skip


def supervised_settings(**changes: Any) -> Supervised:
    return Supervised(**{**VALUES, **changes})


def sft_values(**changes: Any) -> dict[str, Any]:
    """Return an entry of `sft` as params.yaml has it."""
    return {"source": "data/talk.jsonl", "heldout_fraction": 0.25, **VALUES, **changes}


def sft_settings(**changes: Any) -> Sft:
    return Sft(**sft_values(**changes))
