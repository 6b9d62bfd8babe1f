"""Sealed rounds in a real pipeline: nothing reruns, numbers stay, and a clone goes on from them."""

import json
import shutil
from pathlib import Path

import pytest
from dvc_project import Project

pytestmark = [pytest.mark.slow, pytest.mark.rare]  # tests/project/test_sealing_*.py have the parts
CLEAN = "Data and pipelines are up to date."
ROUND_3 = {f"{stage}@r003" for stage in ("rollout", "reward", "reference", "advantage", "update", "evaluate")}
SUMMARIES = (
    "metrics/training.csv",
    "metrics/heldout.csv",
    "metrics/critic.csv",
    "metrics/summary.json",
    "metrics/rounds/r001.json",
    "metrics/rounds/r002.json",
)


def rounds(project: Project, *arguments: str) -> str:
    return project.run("ppo-pipeline", "rounds", *arguments)


def of_round(project: Project, name: str) -> dict[str, str]:
    return {path: digest for path, digest in project.hashes().items() if f"/{name}/" in path}


def summaries(project: Project) -> list[bytes]:
    return [(project.folder / name).read_bytes() for name in SUMMARIES]


def test_a_sealed_project_goes_on_as_one_that_was_never_sealed(tmp_path: Path) -> None:
    (tmp_path / "sealed").mkdir()
    project = Project(tmp_path / "sealed")
    project.repro()
    shutil.copytree(project.folder, tmp_path / "open", symlinks=True)
    never = object.__new__(Project)
    never.folder = tmp_path / "open"
    before, drawn = project.hashes(), summaries(project)

    said = rounds(project, "seal", "--keep", "0")
    assert "sealed r001, r002;" in said
    assert CLEAN in project.run("dvc", "status")
    assert project.repro() == set()
    assert summaries(project) == drawn
    assert not of_round(project, "r001")
    shown = project.run("dvc", "metrics", "show", "--json", "metrics/rounds")
    assert "metrics/rounds/r001.json" in shown

    told = json.loads(project.run("ppo-pipeline", "status", "--json"))
    assert told["reruns"] == [] and told["trouble"] is None
    assert [(entry["round"], entry["sealed"]) for entry in told["rounds"]] == [
        ("r000", False), ("r001", True), ("r002", True),
    ]  # fmt: skip
    assert told["rounds"][1]["cached_bytes"] == never.lock_sizes("r001") > 0

    for each in (project, never):
        rounds(each, "add", "1")
        assert each.repro() == {"settings", "summary"} | ROUND_3
    wanted = of_round(never, "r003")
    assert len(wanted) == 17 and of_round(project, "r003") == wanted
    assert summaries(project) == summaries(never)

    # Their settings are no longer in data/settings, and params.yaml has others by now: DVC's cache knows.
    project.change("advantage.kl_coef", 0.5)
    compared = [json.loads(each.run("ppo-pipeline", "diff", "r001", "r003", "--json")) for each in (project, never)]
    assert compared[0] == compared[1] and compared[0]["settings"] == {}
    assert compared[0]["metrics"]["objective/kl"]["a"] == 0.0 and compared[0]["answers"]
    project.change("advantage.kl_coef", 0.05)

    remote, clone = tmp_path / "remote", tmp_path / "clone"
    project.run("dvc", "remote", "add", "--default", "here", str(remote))
    project.run("git", "add", "--all")
    assert "sealed/r001.dvc" in project.run("git", "ls-files")
    project.run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "sealed")
    project.run("dvc", "gc", "--workspace", "--force")
    project.run("dvc", "push", "--quiet")
    project.run("git", "clone", "--quiet", str(project.folder), str(clone))
    other = object.__new__(Project)
    other.folder = clone
    other.run("dvc", "pull", "--quiet")
    assert CLEAN in other.run("dvc", "status")
    assert other.repro() == set()

    for each in (project, other):
        assert "unsealed r001, r002;" in rounds(each, "unseal", "r001")
        assert CLEAN in each.run("dvc", "status")
        assert each.repro() == set()
        now = each.hashes()
        assert {path: now[path] for path in before if "/r00" in path} == {
            path: digest for path, digest in before.items() if "/r00" in path
        }
        assert summaries(each) == summaries(never)
    project.change("rounds.r002", {"parent": "r001", "update": {"lr": 0.001}})
    assert {"update@r002", "rollout@r003"} <= project.repro()
