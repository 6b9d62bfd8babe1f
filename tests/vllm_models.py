"""Models that vLLM serves on CPUs, small ones, and engines of them."""

from pathlib import Path
from typing import Any

import torch
from conftest import VOCABULARY, lora_policy, policy_settings, tiny_tokenizer

from ppo_pipeline.models.adapter import adapter_config, save_policy
from ppo_pipeline.sampling.generate import Engine, Model, Sampling, open_engine

CPU = torch.device("cpu")
LENGTH = 12


def wide_llama() -> Any:
    """Return a random Llama whose heads are 32 wide, the least that vLLM's attention has on CPUs."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=256, bos_token_id=256, eos_token_id=257,
        pad_token_id=257, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():  # not so small that all tokens are nearly alike
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5.0)
    return model.eval()


def save_wide(folder: Path) -> Path:
    """Write the model, and its tokenizer, as a transformers folder."""
    wide_llama().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def save_adapter(folder: Path, seed: int = 1) -> Path:
    """Write a LoRA for it that is not 0."""
    settings = policy_settings()
    policy = lora_policy(wide_llama(), settings.target_modules, seed=seed)
    save_policy(policy, adapter_config(settings, "base", policy.layers, policy.model), folder)
    return folder


def engine(name: str, base: Path, policy: Path | None = None, **sampling: Any) -> Engine:
    """Return an engine, in fp32, of responses of up to LENGTH tokens."""
    how = Sampling(**{"max_new_tokens": LENGTH, "batch_size": 8, "max_prompt_tokens": 40, **sampling})
    return open_engine(Model(base, tiny_tokenizer(), policy, CPU, torch.float32), how, name)
