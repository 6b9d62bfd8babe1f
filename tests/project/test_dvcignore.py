"""What systems and editors leave in a folder of code reruns nothing; any other file there does."""

from pathlib import Path

import pytest
from dvc_project import ProjectCopy
from ruamel.yaml import YAML

from ppo_pipeline.project.new_project.files import project_files
from ppo_pipeline.resume.scratch import key_of

LEFT = (
    ".DS_Store", "data/.DS_Store", "._brevity.py", ".brevity.py.swp", "brevity.py.swo", "brevity.py~", "#brevity.py#",
    ".#brevity.py", "__pycache__/brevity.cpython-311.pyc", "data/__pycache__/x.pyc", ".hidden", ".ruff_cache/0/x",
    ".vscode/settings.json", "data/.idea/x", "Thumbs.db", "desktop.ini", ".ipynb_checkpoints/brevity.py",
)  # fmt: skip
HIDDEN = (".hidden", ".ruff_cache/0/x", ".vscode/settings.json", "data/.idea/x")  # ignored among functions alone
READ = ("other.py", "data/words.txt", "data/model.bin")


def put(folder: Path, name: str, within: str = "reward_functions") -> None:
    path = folder / within / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("new")


@pytest.mark.slow
def test_dvc_sees_the_files_that_functions_read_and_no_other(tmp_path: Path) -> None:
    """By the real dvc, with a stage that depends on the folder as the reward stages do, and on one of prompts."""
    project = ProjectCopy(tmp_path)
    put(tmp_path, "data/there.txt")
    put(tmp_path, "a.jsonl", "prompts")
    stage = {"cmd": "echo scored > out", "deps": ["reward_functions", "prompts"], "outs": ["out"]}
    YAML().dump({"stages": {"reward": stage}}, tmp_path / "dvc.yaml")
    assert project.repro() == {"reward"}
    for name in LEFT:
        put(tmp_path, name)
        put(tmp_path, name, "prompts" if name not in HIDDEN else "reward_functions")
    assert "up to date" in project.run("dvc", "status")
    put(tmp_path, READ[0])
    assert "reward_functions" in project.run("dvc", "status")


def test_snapshots_of_rewards_are_kept_by_the_same_rule(tmp_path: Path) -> None:
    put(tmp_path, "data/there.txt")
    folder = tmp_path / "reward_functions"
    before = key_of([folder], [])
    for name in LEFT:
        put(tmp_path, name)
        assert key_of([folder], []) == before, name
    for name in READ:
        put(tmp_path, name)
        assert key_of([folder], []) != before, name
        (folder / name).unlink()
    assert key_of([folder], []) == before


def test_a_new_project_ignores_the_same() -> None:
    own = Path(__file__).resolve().parents[2] / ".dvcignore"
    assert project_files(None)[".dvcignore"] == own.read_text(encoding="utf-8")
