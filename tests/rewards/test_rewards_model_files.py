"""Where a reward model comes from, and that nothing it brings along is run."""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_tiny
from huggingface_hub import constants
from reward_models import save_reward_model
from safetensors.torch import load_file
from test_rewards_model import component, samples

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.rewards import model_files

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def to_pickle(folder: Path, content: Any = None) -> Path:
    """Replace the safetensors file by pytorch_model.bin."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights if content is None else content, folder / "pytorch_model.bin")
    return folder


class Attack:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the hub model some/reward in an offline cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "cache" / "models--some--reward"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "refs" / "v1").write_text(COMMIT)
    return save_reward_model(repository / "snapshots" / COMMIT)


def test_a_hub_model_is_read_at_its_revision(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    from huggingface_hub import snapshot_download

    def spy(*args: Any, **options: Any) -> str:
        asked.append(options["revision"])
        return snapshot_download(*args, cache_dir=constants.HF_HUB_CACHE, **options)

    monkeypatch.setattr("huggingface_hub.snapshot_download", spy)
    expected = component(hub).score(samples())
    for revision in (None, "v1", COMMIT):
        assert component(Path("some/reward"), revision=revision).score(samples()) == pytest.approx(expected, abs=1e-6)
    assert asked == [None, "v1", COMMIT]
    with pytest.raises(PipelineError, match="the hub model 'some/reward' at 'v2' cannot be fetched"):
        component(Path("some/reward"), revision="v2").score(samples())


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("nowhere", {}, "no folder here, and no hub id of the form owner/name"),
        ("./no/where", {}, "no folder here, and no hub id"),
        ("nobody/no-such-model", {}, "the hub model 'nobody/no-such-model' cannot be fetched"),
        (".", {}, r"the folder '\.' has no config\.json"),
        (".", {"revision": "main"}, r"'\.' is a folder; revision must be null"),
    ],
)
def test_what_is_no_model_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, changes: dict, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError, match=f"reward 'helpful': model: .*{message}"):
        component(Path("x"), **{"model": model, **changes}).score(samples())


def test_a_language_model_without_a_classification_head_is_refused(tmp_path: Path) -> None:
    """transformers would give it a random head and only warn."""
    folder = save_tiny(tmp_path / "model")
    with pytest.raises(PipelineError, match=r"is no trained classifier: it has no weights for score\.weight"):
        component(folder).score(samples())


def test_pickled_weights_are_read_only_where_allowed_and_only_as_tensors(tmp_path: Path) -> None:
    expected = component(save_reward_model(tmp_path / "safe")).score(samples())
    folder = to_pickle(save_reward_model(tmp_path / "pickled"))
    with pytest.raises(PipelineError, match=r"has no safetensors file.*set pickled_weights: true"):
        component(folder).score(samples())
    assert component(folder, pickled_weights=True).score(samples()) == pytest.approx(expected, abs=1e-6)
    shutil.copy(tmp_path / "safe/model.safetensors", folder)
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    assert component(folder, pickled_weights=True).score(samples()) == pytest.approx(expected, abs=1e-6)


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run_it(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    folder = to_pickle(save_reward_model(tmp_path / "model"), {"attack": Attack(mark)})
    with pytest.raises(PipelineError, match=r"reward 'helpful': model: .* cannot be loaded"):
        component(folder, pickled_weights=True).score(samples())
    assert not mark.exists()
    os.system(f"true {mark}")
    pickle.loads(pickle.dumps(Attack(mark)))  # the attack is a real one
    assert mark.exists()


def test_an_old_torch_is_refused_for_pickled_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = to_pickle(save_reward_model(tmp_path / "model"))
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(PipelineError, match=r"torch 2\.9\.1\+cpu is not safe to read pickled weights"):
        component(folder, pickled_weights=True).score(samples())


def test_a_model_s_own_code_never_runs(tmp_path: Path) -> None:
    folder = save_reward_model(tmp_path / "model")
    config = (folder / "config.json").read_text()
    mark = tmp_path / "mark"
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w')\nclass C: pass\n")
    own = '"auto_map": {"AutoConfig": "own.C", "AutoModelForSequenceClassification": "own.C"},'
    (folder / "config.json").write_text(config.replace("{", "{" + own, 1).replace("deberta-v2", "strange"))
    with pytest.raises(PipelineError, match="cannot be loaded"):
        component(folder).score(samples())
    assert not mark.exists()


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    folder = save_reward_model(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(PipelineError, match="cannot be loaded"):
        component(folder).score(samples())
    assert model_files.SAFE == "*.safetensors"
