"""The trial before training: what LoRA would have no effect on, or a wrong one, is refused by name."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import policy_settings, targets_of, tiny_model
from peft import PeftModel
from tiny_architectures import tiny_architecture

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models.adapter import adapter_config, save_policy
from ppo_pipeline.models.checkpoint import TrainerState, load_policy, save_trainer
from ppo_pipeline.models.fresh import fresh_lora
from ppo_pipeline.models.loading import hidden_width
from ppo_pipeline.models.lora import NoPlaceForLora, add_lora, init_lora
from ppo_pipeline.models.policy import Policy
from ppo_pipeline.models.trial import try_lora, try_whole
from ppo_pipeline.models.value_head import ValueHead


def fresh(model: Any, targets: list[str] | str) -> Policy:
    layers = add_lora(model.requires_grad_(False), targets, 4, 8, 0.0)
    init_lora(layers, 1)
    return Policy(model, layers, ValueHead(hidden_width(model)))


def refusal(model: Any, targets: list[str] | str, attempt: Callable[[Policy], Any] = try_lora) -> str:
    with pytest.raises(PipelineError) as error:
        attempt(fresh(model, targets))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.usefixtures("either_kernels")
@pytest.mark.parametrize("half", [False, True])
def test_a_policy_comes_out_as_it_was(architecture: str, half: bool) -> None:
    model = tiny_model(architecture).to(torch.bfloat16 if half else torch.float32)
    policy = fresh(model, targets_of(architecture))
    before = {name: p.clone() for name, p in policy.model.named_parameters()}
    state = torch.get_rng_state()
    try_lora(policy)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in policy.model.named_parameters())
    assert not any(layer.base._forward_hooks for layer in policy.layers.values())
    assert [p.requires_grad for p in policy.model.parameters()] == ["lora" in name for name in before]


CASES = {
    "a router that returns more than a product": (
        "phimoe", "all-linear", r"'model\.layers\.0\.mlp\.router' \(PhimoeTopKRouter\) gives something else"),
    "a projection whose weight is read": (
        "mamba", "all-linear", r"MambaForCausalLM reads 'weight' of 'backbone\.layers\.0\.mixer\.dt_proj' itself"),
    "attention to an encoder that is not there": (
        "bart", ["k_proj"], r"'model\.decoder\.layers\.0\.encoder_attn\.k_proj' of BartForCausalLM would be without"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_layers_that_lora_has_no_place_on_are_named(case: str) -> None:
    kind, targets, message = CASES[case]
    assert re.search(message, refusal(tiny_architecture(kind), targets))


@pytest.mark.parametrize(("kind", "targets"), [
    ("phimoe", ["q_proj", "k_proj", "v_proj", "o_proj"]), ("hunyuan_v1_moe", ["q_proj", "gate_proj", "down_proj"]),
    ("deepseek_v3", "all-linear"), ("opt", "all-linear"), ("openai-gpt", "all-linear"),
])  # fmt: skip
def test_the_others_of_these_architectures_are_taken(kind: str, targets: list[str] | str) -> None:
    try_lora(fresh(tiny_architecture(kind), targets))


LEFT_OUT = {
    "phimoe": ["model.layers.*.mlp.router", "model.layers.*.mlp.experts"],
    "hunyuan_v1_moe": ["model.layers.*.mlp.gate.wg", "model.layers.*.mlp.experts"],
    "mamba": ["backbone.layers.*.mixer.out_proj", "backbone.layers.*.mixer.dt_proj"],
    "llama": [],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", LEFT_OUT)
def test_all_linear_leaves_out_what_lora_has_no_place_on(kind: str, tmp_path: Path) -> None:
    """The rest is the set that PEFT gets, with the policy's logits."""
    settings = policy_settings(target_modules="all-linear")
    layers, left_out = fresh_lora(tiny_architecture(kind), settings, seed=3)
    assert left_out == LEFT_OUT[kind]
    model = tiny_architecture(kind)
    again, _ = fresh_lora(model, settings, seed=3)
    assert all(torch.equal(layer.lora_A, again[name].lora_A) for name, layer in layers.items())
    linear = {name for name, m in tiny_architecture(kind).named_modules() if isinstance(m, torch.nn.Linear)}
    assert set(layers) == {n for n in linear - {"lm_head"} if not n.endswith(tuple(p.split("*")[1] for p in left_out))}
    with torch.no_grad():
        for layer in again.values():
            layer.lora_B.normal_(std=0.1)
        ids = torch.arange(12)[None]
        save_policy(Policy(model, again), adapter_config(settings, "base", again, model), tmp_path)
        peft = PeftModel.from_pretrained(tiny_architecture(kind), tmp_path)
        torch.testing.assert_close(
            peft(input_ids=ids, use_cache=False).logits, model(ids, use_cache=False).logits, atol=1e-4, rtol=1e-4
        )


def test_experts_in_one_tensor_are_told_to_have_no_lora() -> None:
    """Shared experts and dense blocks have layers of the same names, which get LoRA."""
    layers, without = fresh_lora(tiny_architecture("deepseek_v3"), policy_settings(target_modules=["gate_proj"]), 0)
    assert list(layers) == ["model.layers.0.mlp.gate_proj", "model.layers.1.mlp.shared_experts.gate_proj"]
    assert without == ["model.layers.*.mlp.experts"]


def test_a_layer_asked_for_by_name_is_refused_and_not_left_out() -> None:
    with pytest.raises(NoPlaceForLora, match="router"):
        fresh_lora(tiny_architecture("phimoe"), policy_settings(target_modules=["q_proj", "router"]), 0)


def changed(model: Any, path: str, forward: Callable[..., Any]) -> Any:
    """Give a module of the model another forward, of the module's own old one and its input."""
    module = model.get_submodule(path)
    old = module.forward
    module.forward = lambda *a, **k: forward(module, old, *a, **k)
    return model


def test_a_layer_without_gradient_is_named() -> None:
    model = changed(tiny_model("llama"), "model.layers.0.mlp", lambda m, old, x: old(x).detach())
    changed(model, "model.layers.1.mlp", lambda m, old, x: old(x).detach())
    assert "'model.layers.0.mlp.gate_proj' of LlamaForCausalLM would be without effect: it gets no gradient" in refusal(
        model, ["q_proj", "gate_proj"]
    )


def test_a_layer_that_is_no_linear_map_is_named() -> None:
    model = changed(tiny_model("llama"), "model.layers.0.self_attn.q_proj", lambda m, old, x: old(x).clamp(-0.1, 0.1))
    assert "'model.layers.0.self_attn.q_proj' (Linear) gives something else" in refusal(model, ["q_proj"])


def test_experts_that_few_tokens_do_not_reach_are_no_fault() -> None:
    model = changed(tiny_model("llama"), "model.layers.1.mlp", lambda m, old, x: torch.zeros_like(x))
    try_lora(fresh(model, ["up_proj"]))


def test_a_weight_that_another_module_uses_is_named() -> None:
    model = tiny_model("llama")
    model.model.layers[1].mlp.up_proj = model.model.layers[0].mlp.up_proj
    assert "the weight of 'model.layers.0.mlp.up_proj' is used by 'model.layers.1.mlp' too" in refusal(
        model, ["up_proj"]
    )
    model = tiny_model("llama")
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.gate_proj.weight
    message = refusal(model, ["up_proj"])
    assert "the weight of 'model.layers.1.mlp.up_proj' is used by 'model.layers.0.mlp.gate_proj' too" in message


@pytest.mark.parametrize("attempt", [try_lora, try_whole])
def test_whatever_a_model_raises_is_told_in_one_line(attempt: Callable[[Policy], Any]) -> None:
    def fail(*_: Any) -> Any:
        raise KeyError("rope\nof sand")

    message = refusal(changed(tiny_model("llama"), "model.layers.0.mlp", fail), ["q_proj"], attempt)
    assert "LlamaForCausalLM cannot be trained this way (KeyError: 'rope\\nof sand')" in message


def test_weights_of_a_whole_model_that_stay_as_they_are_are_named() -> None:
    """BART's decoder alone has no use for its attention to the encoder."""
    model = tiny_architecture("bart")
    fixed = try_whole(Policy(model, {}, ValueHead(32)))
    assert fixed == [name for name, _ in model.named_parameters() if "encoder_attn" in name]
    assert len(fixed) == 20
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    assert try_whole(Policy(tiny_model("gpt2"), {})) == []
    nought = changed(tiny_model("llama"), "model.layers.1.mlp", lambda m, old, x: old(x) * 0)
    names = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "post_attention_layernorm")
    assert try_whole(Policy(nought, {})) == [f"model.layers.1.{name}.weight" for name in names]


def test_a_value_head_takes_what_the_head_takes(tmp_path: Path) -> None:
    """OPT's last projection makes its states narrower than `hidden_size`."""
    model = tiny_architecture("opt")
    policy = fresh(model, ["q_proj"])
    assert policy.value_head is not None and policy.value_head.linear.in_features == 16
    config = adapter_config(policy_settings(target_modules=["q_proj"]), "base", policy.layers, model)
    save_policy(policy, config, tmp_path / "policy")
    save_trainer(policy, TrainerState(), tmp_path / "trainer")
    loaded, _ = load_policy(tiny_architecture("opt"), tmp_path / "policy", tmp_path / "trainer")
    try_lora(loaded)
