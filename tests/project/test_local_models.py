"""`sources`: which local models it must name, what of their files counts, and what each stage reads of that."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import save_tiny
from reward_pairs import entry
from ruamel.yaml import YAML

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.project.local_models import check_sources, file_hashes, model_texts, settle_records
from ppo_pipeline.settings.params import load_params
from stages.__main__ import main

REPOSITORY = Path(__file__).resolve().parents[2]
JUDGE = {
    "name": "judge", "type": "model", "weight": 1.0, "model": "./j", "revision": None, "pickled_weights": False,
    "input": "pair", "label": None, "output": "logit", "max_tokens": 90, "too_long": "cut_start",
    "ensemble": None, "batch_tokens": 500,
    "device": "cpu", "dtype": "fp32",
}  # fmt: skip
LOCAL = "is a local folder; so that dvc repro notices when its weights change"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("m", "j", "k", "smollm2-135m-instruct", "owner/here"):
        Path(name).mkdir(parents=True)
        Path(name, "config.json").write_text(name)
    Path("a.gguf").write_bytes(b"weights")


def write(
    model: str, sources: dict[str, str], rewards: tuple[Any, ...] = (), rounds: dict[str, Any] | None = None,
    **more: Any,
) -> None:  # fmt: skip
    yaml = YAML()
    params = yaml.load(REPOSITORY / "params.yaml")
    params["base"]["model"], params["sources"] = model, sources
    params["reward"]["components"] += list(rewards)
    params["rounds"] = rounds or {}
    params |= more
    yaml.dump(params, Path("params.yaml"))


def own(model: str, name: str = "judge") -> dict[str, Any]:
    return {"parent": "r000", "reward": {"components": [JUDGE | {"model": model, "name": name}], "correct": None}}


@pytest.mark.parametrize(
    ("model", "sources", "more"),
    [
        ("smollm2-135m-instruct", {}, {}),  # the packaged one, whatever lies here
        ("owner/name", {}, {}),
        ("./m", {"base": "m"}, {}),
        ("a.gguf", {"base": "./a.gguf"}, {}),
        ("./gone", {"base": "./gone"}, {}),  # of a clone that does not have it
        ("m", {"base": "m", "any": "j"}, {"rewards": (JUDGE,)}),
        ("m", {"base": "m", "copy": "m"}, {"rewards": (JUDGE | {"model": "m"},)}),
        ("m", {"base": "m", "judge": "j", "judge-2": "k"}, {"rounds": {"a": own("j"), "b": own("./k")}}),
        ("owner/name", {}, {"rewards": (JUDGE | {"model": "owner/name"},)}),
    ],
)
def test_each_local_model_has_its_name(model: str, sources: dict[str, str], more: dict[str, Any]) -> None:
    write(model, sources, **more)
    check_sources(load_params())


@pytest.mark.parametrize(
    ("model", "sources", "more", "said"),
    [
        ("./m", {}, {}, f"base.model: './m' {LOCAL}, write `sources: {{base: ./m}}`."),
        ("owner/here", {}, {}, f"base.model: 'owner/here' {LOCAL}, write `sources: {{base: owner/here}}`."),
        ("a.gguf", {}, {}, "base.model: 'a.gguf' is a local file; so that dvc repro notices when its weights change, "
                           "write `sources: {base: a.gguf}`."),
        ("m", {"base": "k"}, {}, f"base.model: 'm' {LOCAL}, write `sources: {{base: m}}`."),
        ("m", {"mine": "m"}, {}, f"base.model: 'm' {LOCAL}, write `sources: {{base: m}}`."),
        ("owner/name", {"base": "m"}, {}, "sources.base: no model of these settings is 'm', write `sources: {}`."),
        ("m", {"base": "m", "judge": "j"}, {}, "sources.judge: no model of these settings is 'j', write "
                                               "`sources: {base: m}`."),
        ("m", {"base": "m"}, {"rewards": (JUDGE,)}, f"reward 'judge': model './j' {LOCAL}, write "
                                                   "`sources: {base: m, judge: ./j}`."),
        ("m", {"base": "m"}, {"rewards": (JUDGE | {"name": "base", "model": "m"},)},
         f"reward 'base': model 'm' {LOCAL}, write `sources: {{base: m, base-2: m}}`."),
        ("m", {"base": "m", "judge": "j"}, {"rounds": {"a": own("j"), "b": own("k")}},
         f"rounds.b.reward 'judge': model 'k' {LOCAL}, write `sources: {{base: m, judge: j, judge-2: k}}`."),
        ("m", {"base": "m"}, {"rounds": {"a": own("j"), "b": own("j")}},
         f"rounds.a.reward 'judge': model 'j' {LOCAL}, write `sources: {{base: m, judge: j}}`."),
        ("m", {"base": "m", "r001": "j"}, {"rounds": {"r001": own("j", "r001")}},  # DVC would take it for r001's stage
         f"rounds.r001.reward 'r001': model 'j' {LOCAL}, write `sources: {{base: m, r001-2: j}}`."),
    ],
)  # fmt: skip
def test_another_map_is_refused_with_the_line_to_write_and_that_line_is_right(
    model: str, sources: dict[str, str], more: dict[str, Any], said: str
) -> None:
    write(model, sources, **more)
    done = CliRunner().invoke(main, ["settings"])
    assert done.exit_code == 1
    assert done.output.strip().removeprefix("Error: ").removeprefix("settings: ") == f"params.yaml: {said}"
    assert not Path("data").exists()
    write(model, YAML(typ="safe").load(said.split("`")[1])["sources"], **more)
    check_sources(load_params())


def test_a_reward_model_that_is_trained_here_needs_its_name_though_it_is_not_there_yet() -> None:
    trained = {
        "preferences": {"pairs": {"source": "p.jsonl", "heldout_fraction": 0.1}}, "reward_model": {"kind": entry()},
    }  # fmt: skip
    judge = JUDGE | {"model": "data/reward_model/kind", "input": "chat"}
    write("owner/name", {}, (judge,), **trained)
    with pytest.raises(PipelineError) as error:
        check_sources(load_params())
    assert f"'data/reward_model/kind' {LOCAL}, write `sources: {{judge: data/reward_model/kind}}`." in str(error.value)
    write("owner/name", {"judge": "data/reward_model/kind"}, (judge,), **trained)
    check_sources(load_params())


def test_a_path_in_the_home_folder_is_written_out_since_dvc_does_not_know_it(tmp_path: Path) -> None:
    write("owner/name", {"judge": "~/j"}, (JUDGE | {"model": "~/j"},))
    with pytest.raises(PipelineError) as error:
        check_sources(load_params())
    assert f"write `sources: {{judge: {tmp_path}/j}}`." in error.value.message
    write("owner/name", {"judge": f"{tmp_path}/j"}, (JUDGE | {"model": "~/j"},))
    check_sources(load_params())


@pytest.mark.parametrize("name", ["with space", "a: b", "true", "1.5", "# x", "modèle"])
def test_the_line_is_yaml_whatever_the_path(name: str) -> None:
    Path(name).mkdir()
    write(name, {})
    with pytest.raises(PipelineError) as error:
        check_sources(load_params())
    assert YAML(typ="safe").load(error.value.message.split("`")[1]) == {"sources": {"base": name}}


def test_what_is_loaded_counts_and_what_lies_beside_does_not() -> None:
    save_tiny(Path("models/mine"))
    wanted = {path.name for path in Path("models/mine").iterdir()} | {"additional_chat_templates/tools.jinja", "x.py"}
    for place in ("checkpoint-5/optimizer.pt", ".cache/lock", "additional_chat_templates/tools.jinja", "README.md",
                  "x.py", "__pycache__/x.pyc"):  # fmt: skip
        Path("models/mine", place).parent.mkdir(exist_ok=True)
        Path("models/mine", place).write_text("x")
    Path("link").symlink_to("models/mine")
    for folder in ("models/mine", "link"):
        assert file_hashes(Path(folder)) == {
            name: hashlib.sha256(Path(folder, name).read_bytes()).hexdigest() for name in wanted
        }
    assert file_hashes(Path("a.gguf")) == {"a.gguf": hashlib.sha256(b"weights").hexdigest()}
    with pytest.raises(PipelineError, match="no folder or file 'gone'"):
        file_hashes(Path("gone"))


def test_each_stage_reads_of_its_own_models_and_a_name_that_has_gone_leaves_nothing() -> None:
    write("m", {"base": "m", "x": "j", "y": "k"}, (JUDGE,), {"r001": {"parent": "r000"}, "r002": own("k", "other")})
    for name in ("base", "x", "y", "before"):
        Path("records", name).mkdir(parents=True)
        Path("records", name, "files.json").write_text(json.dumps({"config.json": name}))
    Path("records/base/.gitkeep").touch()
    texts = {name: json.loads(text) for name, text in model_texts(load_params(), Path("records"))}
    judge = {"judge": {"config.json": "x"}}
    assert texts == {
        "rewards/r000.json": judge,
        "rewards/r001.json": judge,
        "rewards/r002.json": {"other": {"config.json": "y"}},
    }
    settle_records(load_params(), Path("records"))
    assert {path.name for path in Path("records").iterdir()} == {"base", "x", "y"}
    Path("records/x/files.json").unlink()
    settle_records(load_params(), Path("records"))
    assert json.loads(Path("records/x/files.json").read_text()) == file_hashes(Path("j"))
    write("owner/name", {}, (), {"r001": {"parent": "r000"}})
    texts = dict(model_texts(load_params(), Path("records")))
    assert set(texts.values()) == {"{}\n"}
    settle_records(load_params(), Path("records"))
    assert [path.as_posix() for path in Path("records").rglob("*")] == ["records/base", "records/base/.gitkeep"]
