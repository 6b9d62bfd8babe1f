"""JSON that steers training: truncated, of wrong types, not UTF-8, it gives one error that names the file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import policy_settings, tiny_model

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models.adapter import adapter_config, attach_policy, save_policy
from ppo_pipeline.models.checkpoint import TrainerState, read_trainer, save_trainer
from ppo_pipeline.models.loading import read_source
from ppo_pipeline.models.lora import add_lora
from ppo_pipeline.models.policy import Policy
from ppo_pipeline.models.value_head import ValueHead
from ppo_pipeline.project.learning_curve import round_metrics, sealed_metrics
from ppo_pipeline.settings.params import load_params
from ppo_pipeline.settings.stage_settings import AdvantageSettings, read_settings
from ppo_pipeline.storage.files import read_json
from ppo_pipeline.tables.controllers import Controllers

COMMITTED = Path(__file__).resolve().parents[2] / "params.yaml"
TEXTS = {"empty": b"", "no object": b"[1]", "a number": b"3", "not UTF-8": b'{"a": "\xff"}', "deep": b"[" * 100_000}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with one of each: state.json, adapter_config.json, controllers.json, settings, metrics, source.json."""
    s = policy_settings()
    model = tiny_model("llama").requires_grad_(False)
    policy = Policy(model, add_lora(model, s.target_modules, s.rank, s.alpha, s.dropout), ValueHead(32))
    save_policy(policy, adapter_config(s, "base", policy.layers, policy.model), tmp_path / "policy")
    save_trainer(policy, TrainerState(moments={"m": torch.zeros(2)}), tmp_path / "trainer")
    Controllers().write(tmp_path / "controllers.json")
    settings = AdvantageSettings.of(load_params(COMMITTED), "r001")
    (tmp_path / "advantage.json").write_text(settings.model_dump_json(by_alias=True))
    for name in ("r001/rollout.json", "r002.json", "source.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"advantage": {}, "update": {}}')
    return tmp_path


READERS: dict[str, Callable[[Path], Any]] = {
    "trainer/state.json": lambda p: read_trainer(p / "trainer"),
    "policy/adapter_config.json": lambda p: attach_policy(tiny_model("llama"), p / "policy"),
    "controllers.json": lambda p: Controllers.read(p / "controllers.json"),
    "advantage.json": lambda p: read_settings(AdvantageSettings, p / "advantage.json"),
    "r001/rollout.json": lambda p: round_metrics(p, "r001"),
    "r002.json": lambda p: sealed_metrics(p, "r002"),
    "source.json": lambda p: read_source(p),
}


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_named_and_a_whole_one_read(project: Path, name: str) -> None:
    path, read = project / name, READERS[name]
    read(project)
    good = path.read_bytes()
    texts = [*TEXTS.values(), good[: len(good) // 2], good[:-3]]
    for text in texts:
        path.write_bytes(text)
        with pytest.raises(PipelineError, match=path.name) as caught:
            read(project)
        assert any(
            cure in caught.value.message for cure in ("rerun", "git has", "`dvc repro settings` writes it again")
        )
    path.write_bytes(good)
    read(project)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("trainer/state.json", {"critic": "sharde"}),
        ("trainer/state.json", {"critic": ...}),
        ("trainer/state.json", {"optimizer_step": "3"}),
        ("trainer/state.json", {"optimizer_step": 1.5}),
        ("trainer/state.json", {"value_step": True}),
        ("trainer/state.json", {"loss_scale": [1.0]}),
        ("trainer/state.json", {"moments": {}}),
        ("trainer/state.json", {"more": 1}),
        ("trainer/state.json", {"controllers": {"kl_coef": "0.1"}}),
        ("controllers.json", {"score_mean": None}),
        ("controllers.json", {"score_mean": float("nan")}),
        ("controllers.json", {"kl_coef": 10**400}),
        ("policy/adapter_config.json", {"r": "8"}),
        ("policy/adapter_config.json", {"r": 0}),
        ("policy/adapter_config.json", {"r": ...}),
        ("policy/adapter_config.json", {"lora_alpha": None}),
        ("policy/adapter_config.json", {"target_modules": [1]}),
        ("policy/adapter_config.json", {"target_modules": {}}),
        ("advantage.json", {"advantage": 5}),
        ("r002.json", {"advantage": 5}),
    ],
)
def test_a_value_of_a_wrong_type_is_named(project: Path, name: str, change: dict[str, Any]) -> None:
    path = project / name
    values = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))
    with pytest.raises(PipelineError, match=rf"{path.name}: ") as caught:
        READERS[name](project)
    assert any(part in caught.value.message for part in (next(iter(change)), "kl_coef", "a stage's metrics"))


def test_a_file_that_is_not_there_says_who_makes_it(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"a\.json: no such file; `dvc repro` makes it, `dvc pull` fetches it"):
        read_json(tmp_path / "a.json")


def test_a_whole_number_may_stand_for_a_float_as_people_write_it(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"kl_coef": 1, "score_mean": 0}')
    assert Controllers.read(tmp_path / "c.json") == Controllers(kl_coef=1.0)
