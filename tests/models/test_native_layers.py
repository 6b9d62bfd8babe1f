"""Models with CPU kernels in their layers against the same models as transformers has them."""

from typing import Any

import numpy as np
import pytest
import torch
from conftest import VOCABULARY, targets_of, tiny_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from ppo_pipeline.compute.native import library
from ppo_pipeline.compute.native.operations import serves
from ppo_pipeline.models.lora import add_lora, init_lora
from ppo_pipeline.models.native_layers import use_native_layers
from ppo_pipeline.sampling.decoder import Decoder, Request

library.allow(True)
pytestmark = pytest.mark.skipif(not serves(torch.device("cpu"), torch.float32), reason="no C compiler here")

LAYERS, STOP, CPU = 2, 257, torch.device("cpu")
KINDS = ("llama", "qwen2", "qwen3", "mistral")
IDS = torch.arange(60).view(3, 20) * 7 % 256


def model_of(kind: str, seed: int = 0, **changes: Any) -> Any:
    """Return a random model whose attention is wide enough for the kernels: heads of 16 numbers, norms unlike 1."""
    sizes = {
        "hidden_size": 96, "intermediate_size": 120, "num_hidden_layers": LAYERS, "num_attention_heads": 6,
        "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256, "vocab_size": VOCABULARY,
        "bos_token_id": 256, "eos_token_id": STOP, "pad_token_id": STOP,
    }  # fmt: skip
    if kind == "mistral":
        sizes["sliding_window"] = None
    config = AutoConfig.for_model(kind, **{**sizes, **changes})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(8.0)
            elif "norm" in name:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_()
    return model.eval().requires_grad_(False)


def pair(kind: str, **changes: Any) -> tuple[Any, Any]:
    """Return a plain model and its twin with the kernels."""
    plain, native = model_of(kind, **changes), model_of(kind, **changes)
    use_native_layers(native)
    return plain, native


def replaced(model: nn.Module) -> dict[str, int]:
    """Return how many modules of each kind no longer have their class's own forward."""
    found: dict[str, int] = {}
    for module in model.modules():
        if "forward" in vars(module):
            kind = type(module).__name__
            part = next(name for name in ("Norm", "MLP", "Attention") if kind.endswith(name))
            found[part] = found.get(part, 0) + 1
    return found


def distance(found: Tensor, expected: Tensor) -> float:
    return float(torch.linalg.vector_norm((found - expected).double()) / torch.linalg.vector_norm(expected.double()))


@pytest.mark.parametrize("kind", KINDS)
def test_all_parts_of_known_models_are_replaced_and_give_the_same(kind: str) -> None:
    plain, native = pair(kind)
    norms = 2 * LAYERS + 1 + (2 * LAYERS if kind == "qwen3" else 0)  # of queries and keys
    assert replaced(native) == {"Norm": norms, "MLP": LAYERS, "Attention": LAYERS}
    assert replaced(plain) == {}
    mask = torch.ones_like(IDS)
    mask[1, 12:] = 0
    with torch.no_grad():
        for given in (None, mask):
            expected, found = (
                m.base_model(input_ids=IDS, attention_mask=given).last_hidden_state for m in (plain, native)
            )
            kept = mask.bool() if given is not None else torch.ones_like(IDS).bool()
            assert distance(found[kept], expected[kept]) < 1e-5
    assert {name: p.shape for name, p in native.named_parameters()} == {
        name: p.shape for name, p in plain.named_parameters()
    }


@pytest.mark.parametrize("prefix", [0, 20])
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_text_is_that_of_generate(kind: str, prefix: int) -> None:
    plain, native = pair(kind)
    rng = np.random.default_rng(prefix)
    start = rng.integers(0, 256, prefix).tolist()
    prompts = [start + rng.integers(0, 256, rng.integers(1, 14)).tolist() for _ in range(7)]
    responses = Decoder(native, [STOP], 20, 1.0, 3).decode([Request(p, None) for p in prompts])
    for prompt, response in zip(prompts, responses, strict=True):
        out = plain.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), do_sample=False, max_new_tokens=20,
            eos_token_id=STOP, pad_token_id=STOP,
        )  # fmt: skip
        assert response.ids == out[0, len(prompt) :].tolist()
        with torch.no_grad():
            logits = plain(torch.tensor([prompt + response.ids])).logits[0, len(prompt) - 1 : -1]
        expected = torch.log_softmax(logits, -1).gather(1, torch.tensor(response.ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(response.logprobs), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_transformers(kind: str, tuning: str) -> None:
    gradients = []
    for native in (False, True):
        model = model_of(kind).requires_grad_(tuning == "full")
        if tuning == "lora":
            layers = add_lora(model, targets_of("llama"), 4, 8, 0.0)
            init_lora(layers, 1)
            torch.manual_seed(2)
            for layer in layers.values():
                nn.init.normal_(layer.lora_B, std=0.1)
        if native:
            use_native_layers(model)
            assert sum(replaced(model).values()) >= 4 * LAYERS + 1
        hidden = model.base_model(input_ids=IDS).last_hidden_state
        (hidden * torch.sin(torch.arange(hidden.numel())).view_as(hidden)).sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert len(gradients[0]) >= (14 * LAYERS if tuning == "lora" else 9 * LAYERS)
    for name, expected in gradients[0].items():
        if not name.endswith("k_proj.bias"):  # 0 but for rounding: softmax does not see it
            assert distance(gradients[1][name], expected) < 1e-5, name


class ShiftedRMSNorm(nn.Module):
    """Gemma's norm with the attributes of Llama's."""

    def __init__(self, old: Any) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(old.weight - 1, requires_grad=False), old.variance_epsilon

    def forward(self, hidden_states: Tensor) -> Tensor:
        x = hidden_states
        return (1 + self.weight) * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


def test_a_norm_that_computes_something_else_stays() -> None:
    """By name and attributes it is Llama's; the comparison on random numbers finds it out."""
    plain, native = model_of("llama"), model_of("llama")
    for layer in native.model.layers:
        layer.input_layernorm = ShiftedRMSNorm(layer.input_layernorm)
    use_native_layers(native)
    assert replaced(native) == {"Norm": LAYERS + 1, "MLP": LAYERS, "Attention": LAYERS}
    with torch.no_grad():
        assert distance(native(IDS).logits, plain(IDS).logits) < 1e-5


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("llama", {"hidden_act": "gelu"}, {"Norm": 2 * LAYERS + 1, "Attention": LAYERS}),
        ("llama", {"head_dim": 8}, {"Norm": 2 * LAYERS + 1, "MLP": LAYERS}),
        ("mistral", {"sliding_window": 8}, {"Norm": 2 * LAYERS + 1, "MLP": LAYERS}),
        ("gemma", {}, {}),
    ],
)
def test_what_the_kernels_do_not_compute_stays(kind: str, changes: Any, expected: dict[str, int]) -> None:
    plain, native = pair(kind, **changes)
    assert replaced(native) == expected
    with torch.no_grad():
        assert distance(native(IDS).logits, plain(IDS).logits) < 1e-5


def test_a_model_of_other_layers_and_one_in_fp16_stay_as_they_are() -> None:
    for model in (tiny_model("gpt2"), model_of("llama").to(torch.float16)):
        use_native_layers(model)
        assert replaced(model) == {}


def test_a_part_in_another_number_format_stays() -> None:
    model = model_of("llama").to(torch.bfloat16)
    model.base_model.norm.float()
    use_native_layers(model)
    assert replaced(model) == {"Norm": 2 * LAYERS, "MLP": LAYERS, "Attention": LAYERS}


def test_switched_off_nothing_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_enabled", False)
    assert replaced(pair("llama")[1]) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_is_as_near_to_fp32_as_transformers_is(kind: str) -> None:
    exact = model_of(kind)
    plain, native = (model_of(kind).to(torch.bfloat16) for _ in range(2))
    use_native_layers(native)
    assert replaced(native)["Attention"] == LAYERS
    with torch.no_grad():
        wanted, expected, found = (
            m.base_model(input_ids=IDS).last_hidden_state.float() for m in (exact, plain, native)
        )
    assert distance(found, wanted) < 1.1 * distance(expected, wanted)
