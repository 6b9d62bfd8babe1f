"""Which files of local models are recorded, and when one is hashed again."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from conftest import save_tiny
from ruamel.yaml import YAML

from ppo_pipeline import local_models
from ppo_pipeline.local_models import Hashes, source_texts
from ppo_pipeline.params import load_params

REPOSITORY = Path(__file__).resolve().parent.parent
OLD = 10**18  # nanoseconds, in 2001


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def record(model: str) -> dict:
    yaml = YAML()
    params = yaml.load(REPOSITORY / "params.yaml")
    params["base"]["model"] = model
    yaml.dump(params, Path("params.yaml"))
    found: dict = json.loads(source_texts(load_params(), Hashes())["base.json"])
    assert found["model"] == model
    return found["files"]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_folder_s_own_files_count_and_those_of_the_hub_and_the_package_do_not() -> None:
    save_tiny(Path("models/mine"))
    for place in ("checkpoint-5/optimizer.pt", ".cache/lock", "additional_chat_templates/tools.jinja"):
        Path("models/mine", place).parent.mkdir()
        Path("models/mine", place).write_text("x")
    files = {path.name: sha256(path) for path in Path("models/mine").iterdir() if path.is_file()}
    tools = Path("models/mine/additional_chat_templates/tools.jinja")
    assert record("models/mine") == files | {"additional_chat_templates/tools.jinja": sha256(tools)}
    Path("a.gguf").write_bytes(b"weights")
    assert record("a.gguf") == {"a.gguf": sha256(Path("a.gguf"))}
    assert record("owner/name") == {}
    assert record("smollm2-135m-instruct") == {}


def test_a_file_is_hashed_again_only_where_its_size_or_time_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    monkeypatch.setattr(local_models, "sha256_of", lambda path: hashed.append(path.name) or sha256(path))
    path = Path("weights")

    def asked(content: bytes, time: int | None) -> bool:
        path.write_bytes(content)
        if time is not None:
            os.utime(path, ns=(time, time))
        hashed.clear()
        hashes = Hashes()
        assert hashes.of(path) == sha256(path)
        hashes.save()
        return bool(hashed)

    assert asked(b"first!", OLD) and not asked(b"first!", OLD)
    assert asked(b"second", OLD + 1) and not asked(b"second", OLD + 1)
    assert asked(b"longer one", OLD + 1)
    assert asked(b"new", None) and asked(b"new", None), "written this moment, and perhaps once more at the same time"
    local_models.REMEMBERED.write_text("damaged")
    assert asked(b"first!", OLD) and not asked(b"first!", OLD)
