"""LoRA and the adapter folder against PEFT."""

import json
from pathlib import Path

import pytest
import torch
from conftest import policy_settings, targets_of, tiny_model
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models.adapter import adapter_config, attach_merged, attach_policy, read_adapter_config, save_policy
from ppo_pipeline.models.checkpoint import TrainerState, load_policy, save_trainer
from ppo_pipeline.models.lora import add_lora, init_lora, lora_off
from ppo_pipeline.models.policy import Policy
from ppo_pipeline.models.value_head import ValueHead
from ppo_pipeline.settings.sections import Policy as PolicySettings

pytestmark = pytest.mark.usefixtures("either_kernels")

IDS = torch.arange(24).view(2, 12) * 9 % 256


def settings(architecture: str, rank: int = 4, alpha: float = 10) -> PolicySettings:
    return policy_settings(rank=rank, alpha=alpha, target_modules=targets_of(architecture))


def trained_policy(architecture: str, seed: int = 1) -> tuple[Policy, PolicySettings]:
    """A policy whose B is not 0, as after training."""
    s = settings(architecture)
    model = tiny_model(architecture).requires_grad_(False)
    layers = add_lora(model, s.target_modules, s.rank, s.alpha, s.dropout)
    init_lora(layers, seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for layer in layers.values():
            layer.lora_B.normal_(std=0.3)
    return Policy(model, layers, ValueHead(32)), s


def saved(policy: Policy, s: PolicySettings, folder: Path) -> Path:
    save_policy(policy, adapter_config(s, "base", policy.layers, policy.model), folder)
    return folder


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(IDS).logits


def test_adapter_loads_in_peft_and_gives_the_same_logits(architecture: str, tmp_path: Path) -> None:
    policy, s = trained_policy(architecture)
    folder = saved(policy, s, tmp_path / "policy")
    peft = PeftModel.from_pretrained(tiny_model(architecture), folder)
    wanted = set(peft.state_dict()) & {k for k in peft.state_dict() if "lora" in k}
    expected = {k.replace(".default", "") for k in wanted}
    assert set(load_file(folder / "adapter_model.safetensors")) == expected
    base = logits(tiny_model(architecture))
    found = logits(peft)
    assert (found - base).abs().max() > 0.1
    torch.testing.assert_close(found, logits(policy.model), atol=1e-4, rtol=1e-5)


def test_peft_reports_no_missing_and_no_unexpected_key(architecture: str, tmp_path: Path) -> None:
    policy, s = trained_policy(architecture)
    folder = saved(policy, s, tmp_path / "policy")
    peft = get_peft_model(tiny_model(architecture), LoraConfig.from_pretrained(folder))
    from peft import set_peft_model_state_dict

    result = set_peft_model_state_dict(peft, load_file(folder / "adapter_model.safetensors"))
    assert not result.unexpected_keys
    assert not [k for k in result.missing_keys if "lora" in k]


def test_adapter_written_by_peft_loads_here(architecture: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = LoraConfig(r=4, lora_alpha=10, target_modules=targets_of(architecture), init_lora_weights=False)
    peft = get_peft_model(tiny_model(architecture), config)
    peft.save_pretrained(tmp_path)
    model = tiny_model(architecture)
    attach_policy(model, tmp_path)
    torch.testing.assert_close(logits(model), logits(peft), atol=1e-4, rtol=1e-5)


def test_a_new_policy_is_exactly_its_base(architecture: str) -> None:
    s = settings(architecture)
    model = tiny_model(architecture)
    expected = logits(model)
    layers = add_lora(model, s.target_modules, s.rank, s.alpha, s.dropout)
    init_lora(layers, 0)
    assert torch.equal(logits(model), expected)


def test_lora_off_is_exactly_the_base_and_comes_back_on(architecture: str) -> None:
    policy, _ = trained_policy(architecture)
    on = logits(policy.model)
    with lora_off(policy.layers):
        assert torch.equal(logits(policy.model), logits(tiny_model(architecture)))
    assert torch.equal(logits(policy.model), on)


def test_merged_equals_unmerged(architecture: str, tmp_path: Path) -> None:
    policy, s = trained_policy(architecture)
    folder = saved(policy, s, tmp_path / "policy")
    model = tiny_model(architecture)
    attach_merged(model, folder)
    assert {type(m) for m in model.modules()} == {type(m) for m in tiny_model(architecture).modules()}
    torch.testing.assert_close(logits(model), logits(policy.model), atol=1e-4, rtol=1e-5)


def test_init_is_peft_s_distribution() -> None:
    layers = add_lora(tiny_model("llama"), ["down_proj"], 64, 16, 0.0)
    init_lora(layers, 0)
    config = LoraConfig(r=64, target_modules=["down_proj"])
    peft = get_peft_model(tiny_model("llama"), config)
    theirs = torch.cat([p.flatten() for n, p in peft.named_parameters() if "lora_A" in n])
    ours = torch.cat([layer.lora_A.flatten() for layer in layers.values()])
    assert ours.abs().max() <= theirs.abs().max() * 1.01
    assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.03)
    assert all(not layer.lora_B.any() for layer in layers.values())


def test_checkpoint_round_trip_is_exact_and_byte_stable(tmp_path: Path) -> None:
    policy, s = trained_policy("llama")
    torch.nn.init.normal_(policy.value_head.linear.weight)
    state = TrainerState(optimizer_step=7, moments={"a.exp_avg": torch.randn(3), "a.exp_avg_sq": torch.rand(3)})
    for name in ("one", "two"):
        saved(policy, s, tmp_path / name / "policy")
        save_trainer(policy, state, tmp_path / name / "trainer")
    for path in sorted((tmp_path / "one").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
    loaded, back = load_policy(tiny_model("llama"), tmp_path / "one" / "policy", tmp_path / "one" / "trainer")
    assert torch.equal(logits(loaded.model), logits(policy.model))
    assert torch.equal(loaded.value_head.linear.weight, policy.value_head.linear.weight)
    assert back.optimizer_step == 7
    assert all(torch.equal(back.moments[k], v) for k, v in state.moments.items())


def test_unknown_target_names_the_nearest_layer() -> None:
    with pytest.raises(PipelineError, match=r"no linear layer 'q_pro'\. Did you mean 'q_proj'"):
        add_lora(tiny_model("llama"), ["q_pro"], 4, 8, 0.0)


def test_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    policy, s = trained_policy("llama")
    folder = saved(policy, s, tmp_path / "policy")
    with pytest.raises(PipelineError, match="no linear layer"):
        attach_policy(tiny_model("gpt2"), folder)
    assert read_adapter_config(folder)["r"] == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [("alpha_pattern", {"q_proj": 64}), ("rank_pattern", {"q_proj": 2}), ("use_dora", True), ("bias", "all")],
)
def test_what_peft_s_lora_has_besides_is_refused(tmp_path: Path, name: str, value: object) -> None:
    folder = saved(*trained_policy("llama"), tmp_path / "policy")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(PipelineError, match=f"adapter_config.json: {name}: .* would act in PEFT alone"):
        read_adapter_config(folder)
