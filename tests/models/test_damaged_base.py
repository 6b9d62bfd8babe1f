"""A damaged model folder: the file's own error, whatever it is, becomes one message that names the folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import save_tiny
from safetensors.torch import load_file, save_file

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models.base import acquire_base
from ppo_pipeline.models.loading import load_model, load_tokenizer
from ppo_pipeline.settings.sections import Base


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("whole") / "base")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def changed(**values: object) -> Callable[[Path], None]:
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), **values})) and None


def without_a_layer(path: Path) -> None:
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})


def flipped(path: Path) -> None:
    good = path.read_bytes()
    path.write_bytes(good[:20] + bytes([good[20] ^ 0xFF]) + good[21:])


MODEL = {
    "config.json, truncated": ("config.json", truncated),
    "config.json, not UTF-8": ("config.json", lambda path: path.write_bytes(b'{"a": "\xff"}')),
    "config.json, a list": ("config.json", lambda path: path.write_text("[]")),
    "config.json, a type as text": ("config.json", changed(hidden_size="wide")),
    "config.json, another size": ("config.json", changed(intermediate_size=64)),
    "config.json, no such model": ("config.json", changed(model_type="no-such")),
    "weights, truncated": ("model.safetensors", truncated),
    "weights, empty": ("model.safetensors", lambda path: path.write_bytes(b"")),
    "weights, damaged header": ("model.safetensors", flipped),
    "weights, one missing": ("model.safetensors", without_a_layer),
    "weights, none": ("model.safetensors", Path.unlink),
    "source.json, truncated": ("source.json", lambda path: path.write_text("{")),
}
TOKENIZER = {
    "tokenizer.json, truncated": ("tokenizer.json", truncated),
    "tokenizer.json, no tokenizer": ("tokenizer.json", lambda path: path.write_text('{"a": 1}')),
    "tokenizer.json, not UTF-8": ("tokenizer.json", lambda path: path.write_bytes(b"\xff\xfe")),
    "tokenizer_config.json, truncated": ("tokenizer_config.json", truncated),
    "tokenizer_config.json, a list": ("tokenizer_config.json", lambda path: path.write_text("[]")),
    "tokenizer.json, none": ("tokenizer.json", Path.unlink),
}


@pytest.mark.parametrize("case", MODEL)
def test_a_damaged_model_is_named(whole: Path, tmp_path: Path, case: str) -> None:
    folder = shutil.copytree(whole, tmp_path / "base")
    name, damage = MODEL[case]
    damage(folder / name)
    with pytest.raises(PipelineError, match=str(folder)):
        load_model(folder, torch.device("cpu"), torch.float32)
    if name != "source.json":
        with pytest.raises(PipelineError, match=rf"base\.model: .*{folder}"):
            acquire_base(Base(model=str(folder), revision=None, trust_remote_code=False), tmp_path / "new")
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("case", TOKENIZER)
def test_a_damaged_tokenizer_is_named(whole: Path, tmp_path: Path, case: str) -> None:
    folder = shutil.copytree(whole, tmp_path / "base")
    name, damage = TOKENIZER[case]
    damage(folder / name)
    with pytest.raises(PipelineError, match=str(folder)):
        load_tokenizer(folder)


def test_too_little_memory_is_not_taken_for_a_damaged_file(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: torch.empty(1 << 58))
    with pytest.raises(RuntimeError, match="allocate"):
        load_model(whole, torch.device("cpu"), torch.float32)
