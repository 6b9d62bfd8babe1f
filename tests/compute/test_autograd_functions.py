"""Every autograd function of the package returns tensors that a model may change in place and take views of.

Falcon's rotary embedding and OLMo's clipping change what a LoRA layer returned.
"""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import lora_policy
from transformers import AutoConfig, AutoModelForCausalLM

import ppo_pipeline
from ppo_pipeline.compute import flash, onednn
from ppo_pipeline.compute.native import attention, library, operations, row_invariant
from ppo_pipeline.models import logprobs, lora, packed, prepacked

IN, OUT, ROWS = 32, 48, 16


def leaf(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(dtype).requires_grad_()


def linear(dtype: torch.dtype = torch.float32) -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(IN, OUT, bias=False).to(dtype).requires_grad_(False)


def layout() -> packed.Layout:
    return packed.packed_layout(torch.tensor([5, 7]), 0, ROWS, 16, torch.device("cpu"))


def frozen_product() -> torch.Tensor:
    if not onednn.serves(torch.bfloat16):
        pytest.skip("no packed weights on this machine")
    layer = prepacked.PrepackedLinear(linear(torch.bfloat16))
    return prepacked.FrozenProduct.apply(leaf(2, 8, IN, dtype=torch.bfloat16), layer)


def scores() -> torch.Tensor:
    return logprobs._TokenLogprobs.apply(leaf(ROWS, IN), leaf(OUT, IN), None, torch.arange(ROWS), 1.0, 8, True)[0]


def attended_by_flash() -> torch.Tensor:
    gpu = torch.device("cuda")
    if not (torch.cuda.is_available() and flash.serves(gpu, torch.bfloat16, 16)):
        pytest.skip("no GPU here that the flash kernels serve")
    bounds = torch.tensor([0, 5, 12], dtype=torch.int32, device=gpu)
    heads = [leaf(12, count, 16, dtype=torch.bfloat16).to(gpu) for count in (4, 2, 2)]
    return flash._Flash.apply(*heads, flash.Spans(bounds, bounds, 7, 7), 0.3)


CASES: dict[type, Callable[[], Any]] = {
    lora._AddLowRank: lambda: lora._AddLowRank.apply(leaf(2, 8, OUT), leaf(2, 8, IN), leaf(16, IN), leaf(OUT, 16), 2.0),
    lora._WithLowRank: lambda: lora._WithLowRank.apply(leaf(2, 8, IN), linear(), leaf(16, IN), leaf(OUT, 16), 2.0),
    prepacked.FrozenProduct: frozen_product,
    packed._FewKeys: lambda: packed._FewKeys.apply(
        leaf(1, 2, 8, 16), leaf(1, 2, 9, 16), leaf(1, 2, 9, 16), torch.ones(8, 9, dtype=torch.bool).tril(1), 0.3
    ),
    packed._Padded: lambda: packed._Padded.apply(leaf(12, 2, 16), layout()),
    packed._Flat: lambda: packed._Flat.apply(leaf(2, 16, 2, 16), layout(), 12),
    attention._Attend: lambda: attention._Attend.apply(
        leaf(12, 4, 16), leaf(12, 2, 16), leaf(12, 2, 16), layout().branches, 0.3
    ),
    flash._Flash: attended_by_flash,
    operations._RmsNorm: lambda: operations._RmsNorm.apply(leaf(2, 8, IN), leaf(IN), 1e-5),
    operations._SiluTimes: lambda: operations._SiluTimes.apply(leaf(2, 8, IN), leaf(2, 8, IN)),
    operations._Rotary: lambda: operations._Rotary.apply(leaf(2, 8, 2, 16), torch.ones(2, 8, 16), torch.ones(2, 8, 16)),
    logprobs._TokenLogprobs: scores,
    row_invariant._Linear: lambda: row_invariant._Linear.apply(
        leaf(2, 8, IN), leaf(OUT, IN), None, row_invariant.RowInvariantLinear(linear())
    ),
}  # fmt: skip
OF_KERNELS = {lora._WithLowRank, attention._Attend, operations._RmsNorm, operations._SiluTimes, operations._Rotary}


def functions() -> list[type]:
    """Return every autograd function that the package defines."""
    for module in pkgutil.walk_packages(ppo_pipeline.__path__, "ppo_pipeline."):
        if module.name.endswith(".vllm_engine.draw"):  # for vLLM's own processes; it defines none
            continue
        if module.name.split(".")[1] in ("maths", "models", "compute", "sampling", "training"):
            importlib.import_module(module.name)
    found = torch.autograd.Function.__subclasses__()
    return sorted((f for f in found if f.__module__.startswith("ppo_pipeline.")), key=lambda f: f.__name__)


@pytest.mark.parametrize("function", functions(), ids=lambda f: f.__name__)
def test_what_a_function_returns_may_be_changed_in_place(function: type) -> None:
    """Changed by a view, then as a whole; the gradient is that of the same steps on copies."""
    if function in OF_KERNELS and library.kernels() is None:
        pytest.skip("no C compiler here")
    assert function in CASES, "a new autograd function needs a case here"
    found = CASES[function]()
    assert not found._is_view()
    found[..., :2].mul_(2)
    found.clamp_(-0.5, 0.5)
    expected = CASES[function]()
    expected = torch.cat([expected[..., :2] * 2, expected[..., 2:]], -1).clamp(-0.5, 0.5)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", ["falcon", "olmo"])
@pytest.mark.usefixtures("either_kernels")
def test_models_that_change_projections_in_place_train_under_lora(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients of LoRA written out in plain operations."""
    more = {"falcon": {"alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2}, "olmo": {"clip_qkv": 0.2}}
    config = AutoConfig.for_model(
        kind, vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, **more[kind],
    )  # fmt: skip

    def gradients() -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        policy = lora_policy(AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval(), "all-linear")
        weights = torch.sin(torch.arange(12 * 64).float()).view(1, 12, 64)
        (policy.model(torch.arange(12)[None], use_cache=False).logits * weights).sum().backward()
        return {name: p.grad for name, p in policy.policy_parameters().items() if p.grad is not None}

    found = gradients()

    def plain(layer: lora.LoraLinear, x: torch.Tensor) -> torch.Tensor:
        return layer.base(x) + x @ layer.lora_A.T @ layer.lora_B.T * layer.scaling

    monkeypatch.setattr(lora.LoraLinear, "forward", plain)
    expected = gradients()
    assert found.keys() == expected.keys() and len(found) == (16 if kind == "falcon" else 28)
    for name, gradient in expected.items():
        assert gradient.abs().max() > 1e-3
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)
