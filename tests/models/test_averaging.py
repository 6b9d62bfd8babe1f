"""The average of adapters against PEFT: its merged weights are the mean of the single adapters' merged weights."""

from pathlib import Path

import pytest
import torch
from conftest import policy_settings, targets_of, tiny_model
from peft import PeftModel

from ppo_pipeline.models.adapter import adapter_config, save_policy
from ppo_pipeline.models.averaging import averaged, newest_adapters, write_average
from ppo_pipeline.models.checkpoint import TrainerState, save_checkpoint
from ppo_pipeline.models.lora import add_lora, init_lora
from ppo_pipeline.models.policy import Policy
from ppo_pipeline.storage.files import read_json


def lineage(folder: Path, architecture: str, use_rslora: bool, rounds: int, count: int) -> list[Path]:
    """Write checkpoints of a lineage as the update does, each with random adapters; return the rounds' folders."""
    s = policy_settings(rank=4, alpha=10, target_modules=targets_of(architecture), use_rslora=use_rslora)
    model = tiny_model(architecture)
    layers = add_lora(model, s.target_modules, s.rank, s.alpha, 0.0, s.use_rslora)
    policy, parent = Policy(model, layers), folder / "r0"
    save_policy(policy, adapter_config(s, "base", layers, model), parent / "policy")
    found: list[Path] = []
    for number in range(1, count + 1):
        init_lora(layers, number)
        torch.manual_seed(number)
        with torch.no_grad():
            for layer in layers.values():
                layer.lora_B.normal_(std=0.3)
        earlier = newest_adapters(parent / "policy", parent / "trainer", rounds - 1) if found else None
        here = folder / f"r{number}"
        save_checkpoint(policy, TrainerState(), parent / "policy", here / "policy", here / "trainer", earlier=earlier)
        write_average(here / "average", here / "policy", here / "trainer", rounds)
        found.append(here)
        parent = here
    return found


def merged(architecture: str, folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of the base model with the adapter merged by PEFT."""
    return PeftModel.from_pretrained(tiny_model(architecture), folder).merge_and_unload().state_dict()


@pytest.mark.parametrize(("architecture", "use_rslora"), [("llama", False), ("gpt2", True)])
def test_peft_merges_the_average_to_the_mean_of_the_last_rounds(
    architecture: str, use_rslora: bool, tmp_path: Path
) -> None:
    rounds = lineage(tmp_path, architecture, use_rslora, 3, 5)
    for last in (1, 2, 3, 5):  # the first ones have fewer than three behind them
        here = rounds[last - 1]
        members = rounds[max(0, last - 3) : last]
        single = [merged(architecture, member / "policy") for member in members]
        found, base = merged(architecture, here / "average"), tiny_model(architecture).state_dict()
        assert found.keys() == base.keys()
        moved = 0
        for name, weight in found.items():
            torch.testing.assert_close(weight, sum(each[name] for each in single) / len(members), atol=3e-6, rtol=1e-5)
            moved += int((weight - base[name]).abs().max() > 0.05)
        assert moved == 2 * len(targets_of(architecture)) + 2 * (architecture == "gpt2")  # c_proj is there twice
        assert read_json(here / "average/average.json") == {"rounds": len(members)}
        assert read_json(here / "average/adapter_config.json")["r"] == 4 * len(members)
        assert averaged(here / "average")


def test_without_averaging_nothing_is_kept(tmp_path: Path) -> None:
    here = lineage(tmp_path, "llama", False, 1, 1)[0]
    assert [path.name for path in (here / "average").iterdir()] == ["average.json"]
    assert not averaged(here / "average")
    assert not (here / "trainer/earlier.safetensors").exists()


def test_the_trainer_carries_no_more_than_it_needs(tmp_path: Path) -> None:
    """Of n - 1 rounds, so that the next mean is of n; both are the same bytes each time."""
    from safetensors.torch import load_file

    rounds = lineage(tmp_path, "llama", False, 3, 5)
    sizes = []
    for here in rounds[1:]:
        tensors = load_file(here / "trainer/earlier.safetensors")
        sizes.append({t.shape[0 if "lora_A" in name else 1] for name, t in tensors.items()})
    assert sizes == [{4}, {8}, {8}, {8}]
    again = lineage(tmp_path / "again", "llama", False, 3, 5)
    for one, two in zip(rounds, again, strict=True):
        for file in sorted(path.relative_to(one) for path in one.rglob("*.*")):
            assert (one / file).read_bytes() == (two / file).read_bytes(), file
