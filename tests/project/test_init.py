"""`ppo-pipeline init`: what it writes, what it refuses, and that a new project's dvc.yaml is the repository's."""

import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from dvc_project import REPOSITORY
from ruamel.yaml import YAML

from ppo_pipeline.cli.main import main
from ppo_pipeline.project.local_models import check_sources
from ppo_pipeline.project.new_project import files as new_project
from ppo_pipeline.project.new_project.derived import project_dvc_yaml, project_params
from ppo_pipeline.prompts.sources import read_prompts
from ppo_pipeline.settings.params import load_params
from ppo_pipeline.storage.code_fingerprint import all_fingerprints, is_current, stage_fingerprints
from ppo_pipeline.storage.files import write_json

NAMES = {
    ".dvc", ".dvcignore", ".gitignore", "README.md", "data", "dvc.yaml", "params.schema.json", "params.yaml", "prompts",
    "reward_functions", "sealed",
}  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["init", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def yaml(path: Path) -> Any:
    return YAML(typ="safe").load(path)


def test_a_new_folder_gets_all_files_and_a_git_repository(here: Path) -> None:
    said = init("a/mine")
    assert names(here / "a/mine") == NAMES | {".git"}
    assert names(here / "a") == {"mine"}  # nothing is left beside it
    assert "cd a/mine" in said
    assert "dvc repro" in said
    assert (here / "a/mine/sealed/metrics/.gitkeep").is_file()


def test_the_page_of_dvc_plots_tells_what_to_do_where_vega_cannot_be_loaded(here: Path) -> None:
    from dvc_render.html import HTML

    init("mine")
    config = ConfigParser()
    config.read(here / "mine/.dvc/config")
    template = (here / "mine/.dvc" / config["plots"]["html_template"]).read_text()
    page = HTML(template).with_scripts("<script>vega</script>").with_element("<div>plot</div>").embed()
    assert page.index("<script>vega</script>") < page.index("ppo-pipeline report") < page.index("<div>plot</div>")


def test_in_a_git_repository_there_is_no_second_one(here: Path) -> None:
    subprocess.run(["git", "init", "--quiet"], check=True)
    (here / "LICENSE").touch()
    assert "cd " not in init(".")
    assert names(here) == NAMES | {".git", "LICENSE"}
    init("mine")
    assert names(here / "mine") == NAMES


def test_without_git_it_says_what_is_left_to_do(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(here))
    assert "git init" in init("mine")
    assert names(here / "mine") == NAMES


@pytest.mark.parametrize("name", [*sorted(NAMES), "dvc.lock", "metrics"])
def test_a_folder_that_holds_one_of_the_names_stays_as_it_is(here: Path, name: str) -> None:
    Path("mine").mkdir()
    Path("mine", name).write_text("kept")
    assert f"mine: has {name} already" in init("mine", code=1)
    assert names(here / "mine") == {name}
    assert Path("mine", name).read_text() == "kept"


def test_a_link_to_nowhere_is_a_name_that_is_taken(here: Path) -> None:
    Path("mine").mkdir()
    Path("mine/params.yaml").symlink_to("nowhere")
    assert "has params.yaml already" in init("mine", code=1)


def test_a_file_is_no_folder(here: Path) -> None:
    Path("mine").touch()
    assert "mine: is a file" in init("mine", code=1)


@pytest.mark.parametrize("there", [True, False])
def test_a_failure_halfway_leaves_nothing(here: Path, there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full at the last file, or a folder cannot be moved to its place."""
    if there:
        Path("mine").mkdir()
    rename, write = Path.rename, Path.write_text

    def no_rename(path: Path, target: Path) -> Path:
        if path.name == "sealed":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    def no_write(path: Path, text: str, **more: Any) -> int:
        if path.name == "example.py":
            raise OSError(28, "No space left on device")
        return write(path, text, **more)

    monkeypatch.setattr(Path, *(("rename", no_rename) if there else ("write_text", no_write)))
    assert "mine: No space left on device. Nothing was changed." in init("mine", code=1)
    assert names(here) == ({"mine"} if there else set())
    assert not there or names(here / "mine") == set()


def test_the_settings_are_sound_and_fit_the_prompts_and_the_reward(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init("mine")
    monkeypatch.chdir(here / "mine")
    monkeypatch.syspath_prepend(here / "mine")
    params = load_params()
    splits = read_prompts(params.prompts).column("split").to_pylist()
    assert splits.count("train") >= params.rollout.prompts_per_round
    assert splits.count("heldout") >= 5
    assert params.base.model in ("smollm2-135m-instruct",)
    assert params.policy == load_params(REPOSITORY / "params.yaml").policy
    own = REPOSITORY / "ppo_pipeline/project/new_project/template/reward_functions/example.py"
    assert Path("reward_functions/example.py").read_bytes() == own.read_bytes()


def test_the_example_s_reward_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    monkeypatch.syspath_prepend(REPOSITORY / "ppo_pipeline/project/new_project/template/reward_functions")
    reward = importlib.import_module("example").reward
    given = ["Green.", "It is green", "greenish", "", "no " * 30, "green " * 30]
    found = reward(prompts=["?"] * 6, completions=given, expected=["green"] * 6, split=["train"] * 6)
    assert found == pytest.approx([0.95, 0.85, -0.05, 0.0, -1.0, 0.0])


def test_the_params_differ_from_the_committed_ones_in_prompts_reward_and_size_alone(here: Path) -> None:
    init("mine")
    committed, new = yaml(REPOSITORY / "params.yaml"), yaml(here / "mine/params.yaml")
    wanted: dict[str, dict[str, Any]] = {
        "prompts": {"source": "prompts/example.jsonl"},
        "rollout": {"prompts_per_round": 16, "samples_per_prompt": 4, "max_new_tokens": 48},
        "evaluate": {"max_new_tokens": 48},
    }
    for section, settings in wanted.items():
        assert {name: new[section][name] for name in settings} == settings
        committed[section] |= settings
    assert committed.pop("reward") != new.pop("reward")
    assert list(new) == list(committed)
    assert new == committed


@pytest.mark.parametrize("model", ["Qwen/Qwen3-0.6B", "on", 'a "b" #c', "modèle: 1"])
def test_a_model_s_name_is_written_as_it_is(here: Path, model: str) -> None:
    init("mine", "--model", model)
    params = load_params(here / "mine/params.yaml")
    assert (params.base.model, params.sources) == (model, {})


def test_a_model_s_path_counts_from_where_the_command_was_given(here: Path) -> None:
    Path("weights").mkdir()
    init("mine", "--model", "weights")
    params = load_params(here / "mine/params.yaml")
    assert params.base.model == params.sources["base"] == str(here / "weights")
    check_sources(params)


def test_an_empty_model_is_refused_and_nothing_is_written(here: Path) -> None:
    assert "base.model" in init("mine", "--model", "", code=1)
    assert names(here) == set()


def test_the_pipeline_is_the_repository_s_but_for_where_the_code_lies() -> None:
    """Compared as data: the same stages, commands, dependencies and outputs."""
    text = (REPOSITORY / "dvc.yaml").read_text()
    committed, new = (YAML(typ="safe").load(t) for t in (text, project_dvc_yaml(text)))
    code = committed["stages"]["code"]
    assert code.pop("deps") == ["ppo_pipeline", "stages"]
    code["always_changed"] = True
    for stage in committed["stages"].values():
        body = stage.get("do", stage)
        words = body["cmd"].split()
        assert words[:3] == ["python", "-m", "stages"]
        body["cmd"] = " ".join(["python", "-m", "ppo_pipeline.stages", *words[3:]])
    for stage in new["stages"].values():
        body = stage.get("do", stage)
        body["cmd"] = " ".join(body["cmd"].split())
    assert new == committed


@pytest.mark.parametrize(
    ("make", "name", "old", "new"),
    [
        (project_dvc_yaml, "dvc.yaml", "python -m stages ", "python -m stages."),
        (project_dvc_yaml, "dvc.yaml", "      - stages\n", ""),
        (project_dvc_yaml, "dvc.yaml", "      - stages\n", "      - stages\n      - more\n"),
        (project_params, "params/skills.yaml", "  source:", "  sourced:"),
        (project_params, "params/skills.yaml", "\nreward:", "\nrewards:"),
        (project_params, "params/skills.yaml", "  samples_per_prompt:", "  samples:"),
    ],
)
def test_a_rule_that_no_longer_fits_is_an_error(make: Any, name: str, old: str, new: str) -> None:
    text = (REPOSITORY / name).read_text()
    assert old in text
    with pytest.raises(LookupError, match=r"derived\.py no longer fits"):
        make(text.replace(old, new))


def test_an_installed_layout_gives_the_fingerprints_of_the_repository(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "ppo_pipeline", tmp_path / "ppo_pipeline")
    shutil.copytree(REPOSITORY / "stages", tmp_path / "ppo_pipeline/stages")
    for stage, wanted in all_fingerprints().items():
        found = stage_fingerprints(tmp_path / f"ppo_pipeline/stages/{stage}.py", tmp_path)
        assert list(found.items()) == list(wanted.items())
        assert f"stages/{stage}.py" in found


def test_written_fingerprints_are_current_until_one_differs(tmp_path: Path) -> None:
    for stage, fingerprints in all_fingerprints().items():
        write_json(tmp_path / f"{stage}.json", fingerprints)
    assert is_current(tmp_path)
    write_json(tmp_path / "update.json", {**all_fingerprints()["update"], "stages/update.py": "0" * 64})
    assert not is_current(tmp_path)
    assert not is_current(tmp_path / "nowhere")


def test_what_people_edit_in_a_clone_is_no_template(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that are tried, and remotes; dvc's settings are the repository's all the same."""
    clone = here / "clone"
    for name in ("dvc.yaml", "params", *new_project.AS_THEY_ARE):
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copyfile
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        copy(REPOSITORY / name, clone / name)
    for name in ("params.yaml", ".dvc/config"):
        (clone / name).write_text("edited", encoding="utf-8")
    monkeypatch.setattr(new_project, "repository_file", clone.joinpath)
    assert not [name for name, text in new_project.project_files(None).items() if "edited" in text.splitlines()]
    ours, new = ConfigParser(), ConfigParser()
    ours.read(REPOSITORY / ".dvc/config")
    new.read_string(new_project.project_files(None)[".dvc/config"])
    assert {name: {**new[name]} for name in new} == {name: {**ours[name]} for name in new}


def test_each_template_is_written(here: Path) -> None:
    """Nothing lies in the template's folder that no project gets."""
    found = {p.relative_to(new_project.TEMPLATE).as_posix() for p in new_project.TEMPLATE.rglob("*") if p.is_file()}
    assert {name for name in found if "__pycache__" not in name} == set(new_project.TEMPLATES.values())
