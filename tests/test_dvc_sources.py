"""Local models under the real dvc: another file in their folder reruns what is made of them, and nothing else does."""

import json
import os

import pytest
from conftest import save_tiny
from dvc_project import ForetoldProject
from reward_models import save_reward_model

from ppo_pipeline.files import sha256_of

pytestmark = pytest.mark.slow

JUDGE = {
    "name": "judge", "type": "model", "weight": 1.0, "model": "judge", "revision": None, "pickled_weights": False,
    "input": "pair", "label": None, "output": "logit", "max_tokens": 90, "too_long": "cut_start", "batch_tokens": 500,
    "device": "cpu", "dtype": "fp32",
}  # fmt: skip
ROUND = {f"{stage}@r001" for stage in ("rollout", "reward", "reference", "advantage", "update", "evaluate")}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ForetoldProject:
    made = ForetoldProject(tmp_path_factory.mktemp("project"))
    save_reward_model(made.folder / "judge")
    made.change("rounds", {"r001": {"parent": "r000", "reward": {"components": [JUDGE]}}})
    made.repro()
    return made


def why(project: ForetoldProject, stage: str) -> list[str]:
    told = json.loads(project.run("ppo-pipeline", "status", "--json"))
    return [reason for entry in told["reruns"] if entry["stage"] == stage for reason in entry["why"]]


def test_the_record_has_each_file_s_hash_and_a_touched_file_reruns_nothing(project: ForetoldProject) -> None:
    weights = project.folder / "model/model.safetensors"
    record = json.loads((project.folder / "data/sources/base.json").read_text())
    assert record["model"] == "model" and record["files"]["model.safetensors"] == sha256_of(weights)
    assert set(record["files"]) == {path.name for path in (project.folder / "model").iterdir()}
    assert project.repro() == set()
    os.utime(weights, ns=(10**18, 10**18))
    assert json.loads(project.run("ppo-pipeline", "status", "--json"))["reruns"] == []
    assert project.repro() == set()
    remembered = json.loads((project.folder / "data/scratch/hashes.json").read_text())
    assert remembered[str(weights)] == [weights.stat().st_size, 10**18, sha256_of(weights)]


def test_other_weights_in_the_folder_rerun_the_base_and_what_is_made_of_it(project: ForetoldProject) -> None:
    before = project.hashes()
    weights = project.folder / "model/model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))  # of the same size
    assert why(project, "base") == ["model.safetensors of the model changed"]
    assert {"base", "init", "baseline"} | ROUND <= project.repro()
    changed = project.hashes()
    assert changed["data/base"] != before["data/base"]
    weights.write_bytes(good)
    assert project.repro() <= {"summary"}
    assert project.hashes() == before


def test_another_reward_model_in_the_folder_reruns_the_rewards_of_the_rounds_that_use_it(
    project: ForetoldProject,
) -> None:
    (project.folder / "judge/tokenizer_config.json").open("a").write("\n")
    assert why(project, "reward@r001") == ["judge.tokenizer_config.json of the model changed"]
    assert project.repro() == {"reward@r001", "evaluate@r001"}, "the scores came out as they were"


def test_a_folder_that_has_gone_reruns_nothing_and_one_that_comes_back_changed_does(project: ForetoldProject) -> None:
    (project.folder / "model").rename(project.folder / "elsewhere")
    assert project.repro() == set()
    save_tiny(project.folder / "model", "qwen2")
    assert "base" in project.foretold()["runs"]
