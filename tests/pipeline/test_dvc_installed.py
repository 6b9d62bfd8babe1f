"""A project that `ppo-pipeline init` made, run by the installed wheel: it does what the repository does."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny_model
from dvc_project import REPOSITORY, Project
from gguf_model import save_gguf
from installed import Installed, InstalledProject
from ruamel.yaml import YAML
from safetensors.torch import load_file
from test_dvc_pipeline import ROUND_1, ROUND_2

from ppo_pipeline.compute.native import library

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> InstalledProject:
    folder = tmp_path_factory.mktemp("installed")
    made = InstalledProject(Installed(folder), folder / "mine")
    made.first_run = made.repro()
    return made


def test_the_code_is_the_wheel_s_and_there_is_no_other(project: InstalledProject) -> None:
    printed = project.run("python", "-c", "import ppo_pipeline, sys; print(ppo_pipeline.__file__, *sys.path)")
    file, *path = printed.split()
    assert Path(file).is_relative_to(project.installed.packages)
    assert not [entry for entry in path if (Path(entry) / "stages").exists() or Path(entry) == REPOSITORY]
    native = "ppo_pipeline/compute/native"
    c_files = {path.name for path in (REPOSITORY / native).glob("*.[ch]")}
    assert c_files and {path.name for path in (project.installed.packages / native).glob("*.[ch]")} == c_files
    # What lies in site-packages is named after this project.
    assert not {"stages", "tests", "reward_functions"} & {path.name for path in project.installed.packages.iterdir()}


def test_a_first_run_computes_every_stage_and_a_second_one_looks_at_the_code_alone(project: InstalledProject) -> None:
    shared = {"code", "source@base", "settings", "base", "prompts", "init", "baseline", "summary"}
    assert project.first_run == ROUND_1 | ROUND_2 | shared
    assert project.repro() == {"code"}
    if sys.platform == "linux":
        record = json.loads((project.folder / "logs/r001/update.json").read_text())
        assert record["warm"] is True
        assert record["machine"]["kernels"] == library.in_use()


def test_the_hashes_are_those_of_the_repository_with_the_same_settings(
    project: InstalledProject, ran: Project, tmp_path: Path
) -> None:
    """data/code too: the fingerprints of the installed files have the repository's names and hashes."""
    copy = Project.copy_of(ran, tmp_path)
    shutil.copy(project.folder / "params.yaml", copy.folder)
    for name in ("prompts", "reward_functions"):
        shutil.copytree(project.folder / name, copy.folder / name, dirs_exist_ok=True)
    copy.repro()
    assert project.hashes() == copy.hashes()
    assert {"data/code", "data/rounds/r002/policy", "data/base"} <= set(project.hashes())


def test_a_gguf_file_needs_no_extra(project: InstalledProject) -> None:
    """The packaged model is one: what reads it must come with the wheel."""
    params = project.folder / "params.yaml"
    good = params.read_text()
    save_gguf(project.folder / "tiny.gguf")
    edited = YAML().load(good)
    edited["base"]["model"] = edited["sources"]["base"] = "tiny.gguf"
    YAML().dump(edited, params)
    try:
        assert project.repro("base") >= {"base"}
        written = load_file(project.folder / "data/base/model.safetensors")
    finally:
        params.write_text(good)
        (project.folder / "tiny.gguf").unlink()
    project.repro("base")
    expected = tiny_model("llama").state_dict()
    assert set(written) == set(expected) - {"lm_head.weight"}
    for name, values in written.items():
        torch.testing.assert_close(values.float(), expected[name], atol=0, rtol=2**-8)  # bf16, if that


def test_git_gets_what_a_clone_needs_and_no_data(project: InstalledProject) -> None:
    project.run("git", "add", "--all")
    found = set(project.run("git", "ls-files").split())
    model = {name for name in found if name.startswith("model/")}
    assert found - model == {
        ".dvc/.gitignore", ".dvc/config", ".dvc/plots.html", ".dvcignore", ".gitignore", "README.md",
        "data/sources/base/.gitkeep", "params.schema.json",
        "dvc.lock", "dvc.yaml",
        "metrics/critic.csv", "metrics/heldout.csv", "metrics/rounds/r000.json", "metrics/rounds/r001.json",
        "metrics/rounds/r002.json", "metrics/summary.json", "metrics/training.csv", "params.yaml",
        "prompts/example.jsonl", "reward_functions/__init__.py", "reward_functions/example.py",
        "sealed/metrics/.gitkeep", "sealed/rounds.yaml",
    }  # fmt: skip


@pytest.mark.rare  # tests/pipeline/test_dvc_pipeline.py has it in the repository, the next test what `code` does here
def test_an_edited_reward_function_reruns_the_reward_and_no_forward(project: InstalledProject) -> None:
    path = project.folder / "reward_functions/example.py"
    good = path.read_text()
    path.write_text(good.replace("0.05 *", "0.5 *"))
    assert project.repro("advantage@r001") == {"code", "reward@r001", "advantage@r001"}
    path.write_text(good)
    assert project.repro("advantage@r001") == {"code"}


def test_another_version_of_the_package_reruns_what_it_changes(project: InstalledProject) -> None:
    path = project.installed.packages / "ppo_pipeline/maths/estimators/gae.py"
    good = path.read_text()
    path.write_text(good + "\nADDED = 1\n")
    assert project.repro("update@r001") == {"code", "advantage@r001"}
    path.write_text(good)
    assert project.repro("update@r001") == {"code"}


def test_the_commands_work_there(project: InstalledProject, tmp_path: Path) -> None:
    def said(*arguments: str) -> str:
        return project.run("ppo-pipeline", *arguments)

    assert "r002" in said("rounds", "list")
    assert "example" in said("show", "data/rounds/r001/rollouts.parquet", "--limit", "1")
    assert "base" in said("chat", "--round", "r002", "--prompt", "Hello", "--max-new-tokens", "3")
    said("export", "--round", "r002", str(tmp_path / "out"))
    assert (tmp_path / "out/model.safetensors").is_file()
    said("card", "--round", "r002", str(tmp_path / "out"))
    assert "dvc repro update@r002" in (tmp_path / "out/README.md").read_text()
    assert "notebook-full" in said("preset")
    assert json.loads(said("status", "--json"))["reruns"] == []
    assert "eval/scores" in said("diff", "r001", "r002")
    said("report", "--output", str(tmp_path / "report.html"))
    assert (tmp_path / "report.html").is_file()
    said("rounds", "add", "1")
    said("rounds", "remove", "r003")
    assert project.repro() <= {"code", "settings", "summary"}


@pytest.mark.rare  # tests/project/test_sealing_files.py and test_sealing_interrupted.py have the parts
def test_rounds_can_be_sealed_though_dvc_calls_the_stage_code_outdated_always(project: InstalledProject) -> None:
    """A changed package refuses it; with the one that made the rounds `settings` and `summary` are current after it."""
    path = project.installed.packages / "ppo_pipeline/maths/estimators/gae.py"
    good = path.read_text()
    path.write_text(good + "\nADDED = 1\n")
    with pytest.raises(AssertionError, match="Stage code is outdated"):
        project.run("ppo-pipeline", "rounds", "seal", "--keep", "1")
    path.write_text(good)
    project.run("ppo-pipeline", "rounds", "seal", "--keep", "1")
    assert set(json.loads(project.run("dvc", "status", "--json"))) == {"code"}
    assert project.repro() == {"code"}
    project.run("ppo-pipeline", "rounds", "unseal", "r001")


def test_a_preset_brings_its_prompts(project: InstalledProject) -> None:
    assert "data/prompts/questions-chinese.jsonl" in project.run("ppo-pipeline", "preset", "notebook-full")
    committed = (REPOSITORY / "data/prompts/questions-chinese.jsonl").read_bytes()
    assert (project.folder / "data/prompts/questions-chinese.jsonl").read_bytes() == committed
    assert project.repro("prompts") == {"code", "prompts"}
