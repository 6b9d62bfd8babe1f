"""Which layers get LoRA, and how strongly: regular expressions, all-linear and rsLoRA against PEFT."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import policy_settings, targets_of, tiny_model
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models.adapter import adapter_config, attach_policy, lora_arguments, read_adapter_config, save_policy
from ppo_pipeline.models.lora import LoraLinear, add_lora, init_lora
from ppo_pipeline.models.policy import Policy

IDS = torch.arange(24).view(2, 12) * 9 % 256
PATTERNS = {
    "llama": r"model\.layers\.1\..*\.(q_proj|down_proj)",
    "gpt2": r".*\.h\.1\..*(c_attn|mlp\.c_proj)",
}
# A block and its parts match these too; PEFT itself would refuse them.
WIDE = {"llama": r"model\.layers\.0\..*", "gpt2": r"transformer\.h\.0\..*"}


def pattern_of(architecture: str, patterns: dict[str, str] = PATTERNS) -> str:
    return patterns.get(architecture, patterns["llama"])


def filled(layers: dict[str, LoraLinear]) -> None:
    """Draw A, and a B that is not 0, for every layer."""
    init_lora(layers, 1)
    torch.manual_seed(2)
    with torch.no_grad():
        for layer in layers.values():
            layer.lora_B.normal_(std=0.3)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(IDS).logits


def peft_layers(model: Any) -> set[str]:
    found = {name for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    return {name.removeprefix("base_model.model.") for name in found}


def copied_into_peft(layers: dict[str, LoraLinear], model: Any) -> None:
    """Put our A and B into PEFT's layers of the same paths."""
    with torch.no_grad():
        for name, layer in layers.items():
            theirs = model.get_submodule(f"base_model.model.{name}")
            theirs.lora_A["default"].weight.copy_(layer.lora_A)
            theirs.lora_B["default"].weight.copy_(layer.lora_B)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["list", "pattern", "all-linear"])
def test_the_same_layers_as_peft_and_the_same_logits(architecture: str, kind: str, tied: bool) -> None:
    targets = {"list": targets_of(architecture), "pattern": pattern_of(architecture)}.get(kind, kind)
    model = tiny_model(architecture, tied=tied)
    layers = add_lora(model, targets, 4, 10, 0.0)
    filled(layers)
    config = LoraConfig(r=4, lora_alpha=10, target_modules=targets, task_type="CAUSAL_LM")
    peft = get_peft_model(tiny_model(architecture, tied=tied), config).eval()
    assert set(layers) == peft_layers(peft)
    copied_into_peft(layers, peft)
    assert (logits(model) - logits(tiny_model(architecture, tied=tied))).abs().max() > 0.1
    torch.testing.assert_close(logits(model), logits(peft), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("rslora", [True, False])
@pytest.mark.parametrize("kind", ["list", "pattern", "wide pattern", "all-linear"])
def test_the_written_adapter_is_the_same_in_peft_and_here(
    architecture: str, kind: str, rslora: bool, tmp_path: Path
) -> None:
    targets = {
        "list": targets_of(architecture),
        "pattern": pattern_of(architecture),
        "wide pattern": pattern_of(architecture, WIDE),
    }.get(kind, kind)
    s = policy_settings(rank=4, alpha=10, target_modules=targets, use_rslora=rslora)
    model = tiny_model(architecture)
    layers = add_lora(model, s.target_modules, s.rank, s.alpha, s.dropout, s.use_rslora)
    filled(layers)
    save_policy(Policy(model, layers), adapter_config(s, "base", layers, model), tmp_path)
    peft = PeftModel.from_pretrained(tiny_model(architecture), tmp_path)
    assert peft_layers(peft) == set(layers)
    torch.testing.assert_close(logits(model), logits(peft), atol=1e-4, rtol=1e-5)
    again = tiny_model(architecture)
    assert set(attach_policy(again, tmp_path)) == set(layers)
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("rank", [4, 9])
def test_rslora_scales_as_peft_does(architecture: str, rank: int) -> None:
    """alpha / sqrt(rank), against PEFT's own number and, merged, against PEFT's merged weight."""
    targets = targets_of(architecture)
    layers = add_lora(tiny_model(architecture), targets, rank, 6, 0.0, use_rslora=True)
    filled(layers)
    config = LoraConfig(r=rank, lora_alpha=6, target_modules=targets, use_rslora=True)
    peft = get_peft_model(tiny_model(architecture), config).eval()
    copied_into_peft(layers, peft)
    for name, layer in layers.items():
        theirs = peft.get_submodule(f"base_model.model.{name}")
        assert layer.scaling == pytest.approx(theirs.scaling["default"], rel=1e-12)
        torch.testing.assert_close(layer.delta(), theirs.get_delta_weight("default"), atol=1e-6, rtol=1e-5)
    assert layer.scaling == pytest.approx(6 / rank**0.5)


def test_an_adapter_with_rslora_from_peft_loads_here(architecture: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = LoraConfig(
        r=4, lora_alpha=10, target_modules=pattern_of(architecture), use_rslora=True, init_lora_weights=False
    )
    peft = get_peft_model(tiny_model(architecture), config).eval()
    peft.save_pretrained(tmp_path)
    assert lora_arguments(read_adapter_config(tmp_path))[-1] is True
    model = tiny_model(architecture)
    attach_policy(model, tmp_path)
    torch.testing.assert_close(logits(model), logits(peft), atol=1e-4, rtol=1e-5)


def test_a_pattern_has_to_match_the_whole_path() -> None:
    with pytest.raises(PipelineError, match=r"'q_proj' matches the whole path of no linear layer.*layers\.0"):
        add_lora(tiny_model("llama"), "q_proj", 4, 8, 0.0)


@pytest.mark.parametrize("targets", [["q_proj", "lm_head"], ".*"])
def test_the_language_model_head_is_refused(targets: Any) -> None:
    """Logprobs take the head's weight itself, so LoRA on it would be trained by nothing and used by nobody."""
    with pytest.raises(PipelineError, match="language-model head"):
        add_lora(tiny_model("llama", tied=False), targets, 4, 8, 0.0)


def test_a_head_that_shares_its_name_with_a_layer_stays_out_after_saving(tmp_path: Path) -> None:
    """As in OLMo, whose head and blocks both have an `ff_out`: what all-linear chose is written as whole paths."""

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = torch.nn.ModuleDict({"ff_out": torch.nn.Linear(4, 4)})
            self.ff_out = torch.nn.Linear(4, 4)

        def get_output_embeddings(self) -> torch.nn.Module:
            return self.ff_out

    model = Model()
    layers = add_lora(model, "all-linear", 2, 2, 0.0)
    assert set(layers) == {"block.ff_out"}
    config = adapter_config(policy_settings(rank=2, target_modules="all-linear"), "base", layers, model)
    save_policy(Policy(model, layers), config, tmp_path)
    assert set(attach_policy(Model(), tmp_path)) == {"block.ff_out"}
