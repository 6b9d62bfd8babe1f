"""Tiny models that vLLM's kernels for CPUs take, which want heads of 32 at least; all of it in fp32 on one thread."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import VOCABULARY, policy_settings, targets_of, tiny_tokenizer

from ppo_pipeline.observe.run_record import VLLM, version_of

needs_vllm = pytest.mark.skipif(not any(map(version_of, VLLM)), reason="vLLM is not installed")


def save_served(folder: Path, architecture: str = "llama", tied: bool = True, seed: int = 0, **sizes: Any) -> Path:
    """Write a random model with its tokenizer and source.json: 2 layers, 64 wide, 2 heads."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if architecture == "gpt2":
        own = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 256}
    else:
        own = {
            "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 256,
        }  # fmt: skip
    shared = {"vocab_size": VOCABULARY, "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 257}
    config = AutoConfig.for_model(architecture, tie_word_embeddings=tied, **{**shared, **own, **sizes})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # the default initialisation is so small that all tokens are nearly alike
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8.0)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    (folder / "source.json").write_text(json.dumps({"model": "tiny", "trust_remote_code": False}))
    return folder


def save_adapter(base: Path, folder: Path, seed: int = 1, **settings: Any) -> Path:
    """Write a policy of LoRA on the model in `base`, as after training: B is not 0. settings: of `policy`."""
    import torch

    from ppo_pipeline.models.adapter import adapter_config, save_policy
    from ppo_pipeline.models.loading import load_model
    from ppo_pipeline.models.lora import add_lora, init_lora
    from ppo_pipeline.models.policy import Policy

    s = policy_settings(**{"target_modules": targets_of("llama"), **settings})
    model = load_model(base, torch.device("cpu"), torch.float32)
    layers = add_lora(model, s.target_modules, s.rank, s.alpha, 0.0, s.use_rslora)
    init_lora(layers, seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for layer in layers.values():
            layer.lora_B.normal_(std=0.3)
    save_policy(Policy(model, layers), adapter_config(s, str(base), layers, model), folder)
    return folder


def opened(name: str, base: Path, policy: Path | None = None, **sampling: Any) -> Any:
    """Return the engine of this name, on one CPU in fp32; 20 new tokens, 8 at a time unless `sampling` says."""
    import torch

    from ppo_pipeline.sampling.generate import Model, Sampling, open_engine

    how = Sampling(**{"max_new_tokens": 20, "batch_size": 8, **sampling})
    return open_engine(Model(base, tiny_tokenizer(), policy, torch.device("cpu"), torch.float32), how, name)


def random_requests(count: int = 12, shortest: int = 3, longest: int = 40, new_tokens: int = 20) -> list[Any]:
    """Return requests with random prompts of such lengths."""
    import numpy as np

    from ppo_pipeline.sampling.request import Request
    from ppo_pipeline.sampling.streams import uniforms

    numbers = np.random.default_rng(0)
    prompts = [numbers.integers(0, 256, n).tolist() for n in numbers.integers(shortest, longest, count)]
    return [Request(ids, uniforms(0, f"{i}", new_tokens)) for i, ids in enumerate(prompts)]


def assert_same_draws(found: list[Any], expected: list[Any]) -> None:
    """Compare responses: ids and ends are equal, numbers nearly."""
    import numpy as np

    assert [(r.ids, r.finish_reason) for r in found] == [(r.ids, r.finish_reason) for r in expected]
    for what in ("logprobs", "kept_mass"):
        both = [np.concatenate([getattr(r, what) for r in side]) for side in (found, expected)]
        np.testing.assert_allclose(*both, atol=1e-4, err_msg=what)


# Fixtures, which a module gets by pytest.fixture(scope="module")(function).


def served_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model, to which nothing is done."""
    return save_served(tmp_path_factory.mktemp("models") / "base")


def served_adapter(base: Path) -> Path:
    """Return the folder of an adapter of it."""
    return save_adapter(base, base.parent / "adapter")
