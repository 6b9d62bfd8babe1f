"""The real dvc on a small pipeline: what reruns after which change, and what comes from the cache."""

import hashlib
import json
from pathlib import Path

import pytest
from dvc_project import Project

ROUND_1 = {f"{stage}@r001" for stage in ("rollout", "reward", "reference", "advantage", "update", "evaluate")}
ROUND_2 = {stage.replace("r001", "r002") for stage in ROUND_1}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project(tmp_path_factory.mktemp("project"))
    made.first_run = made.repro()
    return made


def test_a_first_run_computes_every_stage_and_a_second_one_nothing(project: Project) -> None:
    shared = {"code", "settings", "base", "prompts", "init", "baseline", "summary"}
    assert project.first_run == ROUND_1 | ROUND_2 | shared
    assert project.repro() == set()


def test_every_artifact_is_there_and_metrics_show_reads_them(project: Project) -> None:
    names = {"rollouts.parquet", "rewards.parquet", "reference.parquet", "advantages.parquet", "eval.parquet"}
    for round_name in ("r001", "r002"):
        folder = project.folder / "data/rounds" / round_name
        assert names <= {path.name for path in folder.iterdir()}
        assert (folder / "policy/adapter_model.safetensors").is_file()
        metrics = json.loads((project.folder / f"metrics/rounds/{round_name}.json").read_text())
        wanted = {"objective/kl", "objective/scores", "policy/approxkl", "policy/clipfrac", "loss/policy", "loss/value"}
        assert wanted <= set(metrics)
    shown = json.loads(project.run("dvc", "metrics", "show", "--json", "metrics/rounds"))
    assert "metrics/rounds/r002.json" in shown[""]["data"]
    assert list(json.loads(project.run("dvc", "metrics", "show", "--json"))[""]["data"]) == ["metrics/summary.json"]


def test_round_1_starts_at_zero_kl_and_ratio_one(project: Project) -> None:
    metrics = json.loads((project.folder / "metrics/rounds/r001.json").read_text())
    assert metrics["objective/kl"] == 0.0
    assert metrics["val/ratio_first_max_deviation"] < 1e-5
    second = json.loads((project.folder / "metrics/rounds/r002.json").read_text())
    assert second["objective/kl"] != 0.0
    assert second["val/ratio_first_max_deviation"] < 1e-5


def test_a_comment_reruns_nothing(project: Project) -> None:
    path = project.folder / "params.yaml"
    path.write_text("# a comment\n" + path.read_text())
    assert project.repro() == set()


def test_kl_coef_reruns_advantage_and_what_follows_and_back_comes_from_the_cache(project: Project) -> None:
    before = project.hashes()
    project.change("advantage.kl_coef", 0.5)
    ran = project.repro()
    kept = {"rollout@r001", "reward@r001", "reference@r001", "base", "prompts", "init", "baseline"}
    # r001's KL is 0, so its advantages come out the same and everything behind them stands.
    assert not ran & kept
    assert {"settings", "advantage@r001", "advantage@r002", "update@r002", "evaluate@r002"} <= ran
    assert project.hashes() != before
    project.change("advantage.kl_coef", 0.05)
    assert project.repro() <= {"summary"}  # its outputs are kept in git, not in the cache; it only copies numbers
    assert project.hashes() == before


def test_gamma_reruns_the_rounds_behind_it_but_no_rollout_of_the_first(project: Project) -> None:
    project.change("advantage.gamma", 0.5)
    ran = project.repro("rollout@r002")
    assert ran == {"settings", "advantage@r001", "update@r001", "rollout@r002"}
    project.change("advantage.gamma", 1.0)
    assert project.repro() <= {"summary"}


def test_reward_reruns_reward_and_not_reference(project: Project) -> None:
    project.change("reward.components.0.length_penalty", 0.25)
    ran = project.repro("advantage@r001")
    assert ran == {"settings", "reward@r001", "advantage@r001"}
    project.change("reward.components.0.length_penalty", 0.0)
    assert project.repro("advantage@r001") == set()


def test_an_edited_reward_function_reruns_the_reward_and_no_forward(project: Project) -> None:
    path = project.folder / "reward_functions" / "brevity.py"
    good = path.read_text()
    path.write_text(good + "\n# edited\n")
    assert project.repro("advantage@r001") == {"reward@r001"}
    path.write_text(good)
    assert project.repro("advantage@r001") == set()


def test_an_override_concerns_its_own_round_and_stage_alone(project: Project) -> None:
    project.change("rounds.r002", {"parent": "r001", "update": {"lr": 0.001}})
    assert project.repro() == {"settings", "update@r002", "evaluate@r002", "summary"}
    project.change("rounds.r002", {"parent": "r001"})
    assert project.repro() == {"summary"}


def test_appending_a_round_keeps_the_others(project: Project) -> None:
    project.change("rounds.r003", {"parent": "r001"})
    ran = project.repro()
    assert ran == {"settings", "summary"} | {stage.replace("r001", "r003") for stage in ROUND_1}


def test_another_clone_gives_the_same_hashes(project: Project, tmp_path: Path) -> None:
    other = Project(tmp_path)
    other.repro("update@r001")
    found, wanted = other.hashes(), project.hashes()
    same = {path for path in found if not path.startswith("data/settings")}
    assert {p: found[p] for p in same} == {p: wanted[p] for p in same}
    assert len(same) > 10


def test_a_mistake_in_params_stops_before_any_costly_stage(project: Project) -> None:
    good = (project.folder / "params.yaml").read_text()
    table = project.folder / "data/rounds/r001/rollouts.parquet"
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    (project.folder / "params.yaml").write_text(good.replace("temperature:", "temprature:"))
    with pytest.raises(AssertionError, match=r"no such setting\. Did you mean 'temperature'"):
        project.repro()
    assert hashlib.sha256(table.read_bytes()).hexdigest() == digest
    (project.folder / "params.yaml").write_text(good)
    assert project.repro() == set()
