"""Local models under the real dvc: what changes in their folder reruns what is made of them, and nothing else does."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from dvc_project import ForetoldProject, Project, stages_run
from reward_models import save_reward_model

from ppo_pipeline.storage.files import sha256_of

pytestmark = pytest.mark.slow

CLEAN = "Data and pipelines are up to date."
JUDGE = {
    "name": "judge", "type": "model", "weight": 1.0, "model": "./judge", "revision": None, "pickled_weights": False,
    "input": "pair", "label": None, "output": "logit", "max_tokens": 90, "too_long": "cut_start",
    "ensemble": None, "batch_tokens": 500,
    "device": "cpu", "dtype": "fp32",
}  # fmt: skip
JUDGED = {"components": [JUDGE], "correct": None}
ROUND = {f"{stage}@r001" for stage in ("rollout", "reward", "reference", "advantage", "update", "evaluate")}


@pytest.fixture(scope="module")
def project(ran: Project, tmp_path_factory: pytest.TempPathFactory) -> ForetoldProject:
    made = ForetoldProject.copy_of(ran, tmp_path_factory.mktemp("project"))
    save_reward_model(made.folder / "judge")
    made.change("sources", {"base": "model", "judge": "judge"})
    judged: dict[str, Any] = {"parent": "r000", "reward": JUDGED}
    made.change("rounds", {"r001": judged, "r002": {"parent": "r000"}})
    made.repro()
    return made


def clean(project: ForetoldProject) -> bool:
    return CLEAN in project.run("dvc", "status")


def why(project: ForetoldProject) -> dict[str, list[str]]:
    return {e["stage"]: e["why"] for e in json.loads(project.run("ppo-pipeline", "status", "--json"))["reruns"]}


def test_status_is_clean_and_a_file_that_was_touched_reruns_nothing(project: ForetoldProject) -> None:
    weights = project.folder / "model/model.safetensors"
    record = json.loads((project.folder / "data/sources/base/files.json").read_text())
    assert record["model.safetensors"] == sha256_of(weights)
    assert set(record) == {path.name for path in (project.folder / "model").iterdir()}
    assert clean(project)
    assert project.repro() == set()
    os.utime(weights, ns=(10**18, 10**18))
    assert clean(project)
    assert why(project) == {}
    assert project.repro() == set()
    (project.folder / "model/README.md").write_text("of no use to the model")
    assert project.repro() == {"source@base"}
    assert clean(project)
    sources = project.folder / "data/sources"
    assert {path.relative_to(sources).as_posix() for path in sources.rglob("*") if path.is_file()} == {
        "base/.gitkeep", "base/files.json", "judge/files.json",
    }, "and no .gitignore of DVC"  # fmt: skip


def test_other_weights_in_the_folder_rerun_the_base_and_what_is_made_of_it(project: ForetoldProject) -> None:
    before = project.hashes()
    weights = project.folder / "model/model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))  # of the same size
    said = project.run("dvc", "status")
    assert "source@base" in said and "modified:           model\n" in said
    assert why(project)["source@base"] == ["model: modified"]
    process = project.start("ppo-pipeline", "rounds", "seal", "--through", "r001")
    assert "Stage source@base is outdated (model modified)" in "".join(process.communicate())
    assert process.returncode == 1
    assert project.repro("base") == {"source@base", "base"}
    told = project.foretold()
    assert {"init", "baseline"} | ROUND <= told["runs"] | told["follows"]
    assert {"init", "baseline", "rollout@r001"} <= project.repro("baseline", "rollout@r001")
    assert project.hashes()["data/base"] != before["data/base"]
    weights.write_bytes(good)
    assert project.repro() <= {"source@base", "settings", "summary"}
    assert project.hashes() == before
    assert clean(project)


def test_another_reward_model_in_the_folder_reruns_the_rewards_of_the_rounds_that_use_it(
    project: ForetoldProject,
) -> None:
    (project.folder / "judge/tokenizer_config.json").open("a").write("\n")
    assert project.repro() == {"source@judge", "settings", "reward@r001", "evaluate@r001"}, "and gave the same scores"
    assert clean(project)


def test_a_model_that_sources_does_not_name_is_refused_before_anything_runs(project: ForetoldProject) -> None:
    project.change("sources", {"judge": "judge"})
    process = project.start("dvc", "repro")
    out, err = process.communicate()
    line = (
        "params.yaml: base.model: 'model' is a local folder; so that dvc repro notices when its weights change, write "
        "`sources: {judge: judge, base: model}`."
    )
    assert process.returncode != 0 and line in out + err
    assert re.findall("Running stage '(.*)'", out) == ["settings"]
    alone = project.start("dvc", "repro", "--force", "--single-item", "base")
    out, err = alone.communicate()
    assert alone.returncode != 0 and line in out + err, "base itself asks, where it is asked for alone"
    assert json.loads(project.run("ppo-pipeline", "status", "--json"))["trouble"] == line
    project.change("sources", {"base": "model", "judge": "judge"})
    assert project.repro() == set()
    assert clean(project)


def test_a_judge_less_reruns_nothing_of_the_other_rounds_and_leaves_no_record(project: ForetoldProject) -> None:
    before = project.hashes()
    project.change("rounds", {"r002": {"parent": "r000"}})
    project.change("sources", {"base": "model"})
    assert project.repro() <= {"settings", "summary"}
    assert not (project.folder / "data/sources/judge").exists()
    assert clean(project)
    project.change("sources", {"base": "model", "judge": "judge"})
    project.change(
        "rounds",
        {"r001": {"parent": "r000", "reward": JUDGED}, "r002": {"parent": "r000"}},
    )
    assert stages_run(project.run("dvc", "repro")) == {"source@judge", "summary"}, "all else lies in DVC's cache"
    assert project.hashes() == before
    assert clean(project)


@pytest.mark.rare
def test_a_clone_without_the_folder_pulls_and_goes_on_with_allow_missing(
    project: ForetoldProject, tmp_path: Path
) -> None:
    project.run("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    project.run("dvc", "push", "--quiet")
    (project.folder / ".git/info/exclude").write_text("/model/\n")
    project.run("git", "add", "--all")
    project.run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "all")
    clone: ForetoldProject = object.__new__(ForetoldProject)
    clone.folder = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", project.folder, clone.folder], check=True)
    clone.run("dvc", "pull", "--quiet")
    said = clone.run("dvc", "status")
    assert "deleted:            model\n" in said and said.count("@") == 1, said
    process = clone.start("dvc", "repro")
    assert "model" in process.communicate()[1] and process.returncode != 0
    assert "Running" not in clone.run("dvc", "repro", "--allow-missing")
    shutil.copytree(project.folder / "model", clone.folder / "model")
    assert clean(clone)
    assert clone.hashes() == project.hashes()
    project.run("dvc", "gc", "--workspace", "--force")
    assert clean(project)
    assert "Running" not in project.run("dvc", "repro")
