"""What PEFT makes of our adapter folders where names alone would mislead it: experts, shared names, renamed keys."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import lora_policy, policy_settings
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils import transformers_weight_conversion as conversion
from tiny_architectures import tiny_architecture

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models.adapter import adapter_config, attach_policy, read_adapter_config, save_policy
from ppo_pipeline.models.lora import matching_modules
from ppo_pipeline.models.peft_names import MOVED, peft_targets
from ppo_pipeline.models.policy import Policy

IDS = torch.arange(24).view(2, 12) * 7 % 64
GATED = ["gate_proj", "up_proj", "down_proj"]
LATENT = ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"]
CASES: list[tuple[str, list[str] | str]] = [
    *((kind, names) for kind in ("deepseek_v2", "deepseek_v3") for names in (GATED, [*LATENT, *GATED], "all-linear")),
    ("glm4_moe", ["q_proj", "v_proj", *GATED]),
    ("glm4_moe", "all-linear"),
    ("glm4_moe", r"model\.layers\.0\..*(o_proj|up_proj)"),
    ("glm4_moe", ["mlp.up_proj", "k_proj"]),
    ("qwen2_moe", ["q_proj", *GATED, "shared_expert_gate"]),
    ("ctrl", ["Wq", "0", "2"]),
]  # fmt: skip


def written(kind: str, targets: list[str] | str, folder: Path, **changes: Any) -> Policy:
    policy = lora_policy(tiny_architecture(kind), targets)
    settings = policy_settings(target_modules=targets, **changes)
    save_policy(policy, adapter_config(settings, "base", policy.layers, policy.model), folder)
    return policy


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "targets"), CASES)
def test_peft_has_the_same_layers_and_logits(kind: str, targets: list[str] | str, tmp_path: Path) -> None:
    policy = written(kind, targets, tmp_path)
    peft = PeftModel.from_pretrained(tiny_architecture(kind), tmp_path)
    found = {name.removeprefix("base_model.model.") for name, m in peft.named_modules() if isinstance(m, LoraLayer)}
    assert found == set(policy.layers)
    assert (logits(policy.model) - logits(tiny_architecture(kind))).abs().max() > 0.05
    torch.testing.assert_close(logits(peft), logits(policy.model), atol=1e-4, rtol=1e-4)
    again = tiny_architecture(kind)
    assert list(attach_policy(again, tmp_path)) == list(policy.layers)
    assert torch.equal(logits(again), logits(policy.model))


def test_names_that_say_enough_stay_as_they_were_set() -> None:
    model = tiny_architecture("qwen2_moe")
    names = ["q_proj", "down_proj"]
    assert peft_targets(model, names, matching_modules(model, names)) == {"target_modules": ["down_proj", "q_proj"]}


def test_layers_beside_experts_are_written_as_parameters() -> None:
    model = tiny_architecture("deepseek_v3")
    names = ["o_proj", "up_proj"]
    assert peft_targets(model, names, matching_modules(model, names)) == {
        "target_modules": ["o_proj"],
        "target_parameters": ["model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.shared_experts.up_proj.weight"],
    }


def test_a_name_that_other_modules_have_too_becomes_paths() -> None:
    """CTRL's feed-forward layers are called 0 and 2, and so are its blocks."""
    model = tiny_architecture("ctrl")
    targets = peft_targets(model, ["0"], matching_modules(model, ["0"]))["target_modules"]
    assert targets == ["transformer.h.0.ffn.0", "transformer.h.1.ffn.0"]


def test_the_names_that_peft_moves_to_experts_are_these() -> None:
    theirs = conversion._MOE_TARGET_MODULE_MAPPING
    assert {kind: tuple(names) for kind, names in theirs.items()} == MOVED


def refusal(kind: str, targets: list[str], dropout: float = 0.0) -> str:
    model = tiny_architecture(kind)
    with pytest.raises(PipelineError) as error:
        peft_targets(model, targets, matching_modules(model, targets), dropout)
    return str(error.value)


def test_what_peft_cannot_load_is_refused_by_name(tmp_path: Path) -> None:
    """Laguna's shared experts get a second dot in their keys; Mamba's last projection PEFT refuses itself."""
    assert "PEFT cannot load LoRA on 'model.layers.1.mlp.shared_experts.up_proj'" in refusal("laguna", ["up_proj"])
    assert "PEFT cannot load LoRA on 'backbone.layers.0.mixer.out_proj'" in refusal("mamba", ["in_proj", "out_proj"])
    assert "policy.dropout: PEFT cannot load" in refusal("deepseek_v3", ["o_proj", "up_proj"], dropout=0.1)


def test_a_path_that_ends_another_is_refused() -> None:
    class Half(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = torch.nn.ModuleDict({"fc": torch.nn.Linear(4, 4)})
            self.other = torch.nn.ModuleDict({"block": torch.nn.ModuleDict({"fc": torch.nn.Linear(4, 4)})})

    with pytest.raises(PipelineError, match=r"PEFT would load the adapter onto 'other\.block\.fc' too"):
        peft_targets(Half(), r"block\.fc", ["block.fc"])


def test_an_adapter_on_experts_themselves_is_refused(tmp_path: Path) -> None:
    written("deepseek_v3", ["o_proj"], tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(path.read_text().replace('"bias"', '"target_parameters": ["experts.down_proj"], "bias"'))
    with pytest.raises(PipelineError, match="LoRA here is on linear layers alone"):
        read_adapter_config(tmp_path)
