"""Checkpoints and base models of any content: they load, or are refused with PipelineError."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import policy_settings, save_tiny, tiny_model
from fuzzing import EDITS, changes_of, damaged, declared, examples
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models.adapter import adapter_config, attach_policy, save_policy
from ppo_pipeline.models.base import acquire_base
from ppo_pipeline.models.checkpoint import TrainerState, read_trainer, save_trainer
from ppo_pipeline.models.loading import load_model, load_tokenizer
from ppo_pipeline.models.lora import add_lora
from ppo_pipeline.models.policy import Policy
from ppo_pipeline.models.tensors import read_tensors
from ppo_pipeline.settings.sections import Base
from ppo_pipeline.tables.controllers import Controllers

CPU = torch.device("cpu")
STATE = TrainerState(3, 2, None, 0, Controllers(0.1, 4, 1.0, 2.0), {"a.exp_avg": torch.ones(2, 3)})


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trainer") / "trainer"
    save_trainer(Policy(tiny_model("llama"), {}, None, None), STATE, folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "policy"
    model, settings = tiny_model("llama"), policy_settings(target_modules=["q_proj"])
    layers = add_lora(model, settings.target_modules, settings.rank, settings.alpha, settings.dropout)
    save_policy(Policy(model, layers, None, None), adapter_config(settings, "base", layers, model), folder)
    return folder


def with_file(folder: Path, name: str, content: bytes, where: Path) -> Path:
    """Return a copy of the folder with one file's content replaced."""
    copy = where / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    (copy / name).write_bytes(content)
    return copy


def contents(path: Path) -> st.SearchStrategy[bytes]:
    """Return the strategy of damaged bytes of a file, where it is JSON also of other values in it."""
    good = path.read_bytes()
    found = EDITS.map(lambda edits: damaged(good, edits)) | st.binary(max_size=30)
    if path.suffix == ".json":
        found |= changes_of(json.loads(good)).map(lambda value: json.dumps(value).encode())
    return found


@examples(40)
@given(data=st.data())
def test_tensors(data: Any, trainer: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(data.draw(contents(trainer / "optimizer.safetensors")))
    declared(lambda: read_tensors(path), "t.safetensors")


@examples(40)
@given(data=st.data())
def test_the_state_of_a_trainer(data: Any, trainer: Path, tmp_path: Path) -> None:
    folder = with_file(trainer, "state.json", data.draw(contents(trainer / "state.json")), tmp_path)
    declared(lambda: read_trainer(folder), "state.json")
    declared(lambda: Controllers.read(folder / "state.json"), "state.json")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@examples(20)
@given(data=st.data())
def test_an_adapter(name: str, data: Any, adapter: Path, tmp_path: Path) -> None:
    folder = with_file(adapter, name, data.draw(contents(adapter / name)), tmp_path)
    declared(lambda: attach_policy(tiny_model("llama"), folder))


def test_tensors_of_another_shape_or_type(adapter: Path, tmp_path: Path) -> None:
    """A dtype that torch has and training does not use is cast; a shape is refused."""
    good = read_tensors(adapter / "adapter_model.safetensors")
    name = next(iter(good))
    for change in ({name: good[name].T.contiguous()}, {name: good[name][0]}, {"other": good[name].clone()}):
        folder = with_file(adapter, "adapter_model.safetensors", b"", tmp_path)
        save_file({**good, **change}, folder / "adapter_model.safetensors")
        with pytest.raises(PipelineError):
            attach_policy(tiny_model("llama"), folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base") / "base")


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors"])
@examples(8)
@given(data=st.data())
def test_a_base_model(name: str, data: Any, base: Path, tmp_path: Path) -> None:
    folder = with_file(base, name, data.draw(contents(base / name)), tmp_path)
    declared(lambda: load_model(folder, CPU, torch.float32))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@examples(8)
@given(data=st.data())
def test_a_tokenizer(name: str, data: Any, base: Path, tmp_path: Path) -> None:
    folder = with_file(base, name, data.draw(contents(base / name)), tmp_path)
    declared(lambda: load_tokenizer(folder))


def gguf(path: Path) -> bytes:
    """Return a small GGUF file: a few numbers and texts, and one tensor."""
    import numpy as np
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_embedding_length(8)
    writer.add_head_count(2)
    writer.add_token_list(["a", "b"])
    writer.add_tensor("token_embd.weight", np.ones((2, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@examples(8)
@given(edits=EDITS)
def test_a_gguf_file(edits: Any, tmp_path: Path) -> None:
    """Whole, it is not enough of a model either: every case is refused."""
    path = tmp_path / "m.gguf"
    path.write_bytes(damaged(gguf(tmp_path / "good.gguf"), edits))
    settings = Base(model=str(path), revision=None, trust_remote_code=False)
    assert declared(lambda: acquire_base(settings, tmp_path / "base"), "m.gguf") is None
    assert not (tmp_path / "base").exists()
