"""The real dvc on a small pipeline: what reruns after which change, and what comes from the cache."""

import hashlib
import json
from pathlib import Path

import pytest
from dvc_project import ForetoldProject, Project

ROUND_1 = {f"{stage}@r001" for stage in ("rollout", "reward", "reference", "advantage", "update", "evaluate")}
ROUND_2 = {stage.replace("r001", "r002") for stage in ROUND_1}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(ran: Project, tmp_path_factory: pytest.TempPathFactory) -> ForetoldProject:
    return ForetoldProject.copy_of(ran, tmp_path_factory.mktemp("project"))


def test_a_first_run_computes_every_stage_and_a_second_one_nothing(project: Project) -> None:
    shared = {"code", "source@base", "settings", "base", "prompts", "init", "baseline", "summary"}
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


def test_another_engine_and_number_of_workers_rerun_nothing(project: Project) -> None:
    """Nothing is even out of date: no dvc.lock differs between a laptop and a cluster."""
    project.change("compute.engine", "ray")
    project.change("compute.workers", 8)
    assert "up to date" in project.run("dvc", "status")
    project.change("compute.engine", "local")
    assert project.repro() == set()


def test_what_a_killed_stage_left_reruns_nothing_and_is_no_news_to_git(project: Project) -> None:
    """metrics/stages as a whole is a dependency of the summary."""
    places = [project.folder / "metrics/stages/r001" / name for name in (".a.json.partial-12", ".b.old-12")]
    places[0].touch()
    places[1].mkdir()
    (places[1] / "file").touch()
    assert project.repro() == set()
    (project.folder / ".params.yaml.partial-12").touch()
    assert "-12" not in project.run("git", "status", "--porcelain", "--untracked-files=all")
    (project.folder / ".params.yaml.partial-12").unlink()
    places[0].unlink()
    (places[1] / "file").unlink()
    places[1].rmdir()


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


def test_edited_code_reruns_the_stages_that_import_it(project: ForetoldProject) -> None:
    path = project.folder / "ppo_pipeline/maths/kl.py"
    good = path.read_text()
    path.write_text("# a comment\n" + good)
    assert project.foretold() == {"runs": {"code"}, "follows": set(), "cached": set()}
    path.write_text(good + "\nEDITED = True\n")
    told = project.foretold()
    assert {"code", "advantage@r001", "advantage@r002"} <= told["runs"]
    assert not {"rollout@r001", "reward@r001"} & (told["runs"] | told["follows"])
    assert project.repro("advantage@r001") >= {"code", "advantage@r001"}
    path.write_text(good)
    assert project.repro() <= {"code", "summary"}


def test_deleted_outputs_come_from_the_cache_and_lost_ones_are_run_again(project: ForetoldProject) -> None:
    table = project.folder / "data/rounds/r001/rollouts.parquet"
    table.unlink()
    assert project.foretold() == {"runs": set(), "follows": set(), "cached": {"rollout@r001"}}
    assert project.repro() == set()
    digest = project.hashes()["data/rounds/r001/rollouts.parquet"]
    (project.folder / ".dvc/cache/files/md5" / digest[:2] / digest[2:]).unlink()
    table.unlink()
    told = project.foretold()
    assert told["runs"] == {"rollout@r001"} and "reward@r001" in told["follows"]
    assert project.repro() == {"rollout@r001"}, "it came out as it was, and so nothing followed"


def test_status_says_what_would_run_and_why_and_changes_nothing(project: ForetoldProject) -> None:
    def contents() -> dict[str, bytes]:
        files = (path for path in project.folder.rglob("*") if path.is_file() and ".dvc/tmp" not in path.as_posix())
        return {p.as_posix(): p.read_bytes() for p in files if not {".git", "__pycache__"} & set(p.parts)}

    project.change("advantage.kl_coef", 0.25)
    before = contents()
    told = json.loads(project.run("ppo-pipeline", "status", "--json"))
    plain = project.run("ppo-pipeline", "status")
    assert contents() == before
    stages = {entry["stage"]: entry for entry in told["reruns"]}
    assert stages["advantage@r001"]["why"] == ["advantage.kl_coef 0.05 -> 0.25"]
    assert stages["update@r001"] | {"seconds": 0} == {
        "stage": "update@r001", "kind": "follows", "why": ["advantage@r001"], "seconds": 0,
    }  # fmt: skip
    recorded = [json.loads((project.folder / f"logs/r00{n}/advantage.json").read_text()) for n in (1, 2)]
    assert told["seconds"] == pytest.approx(sum(record["process_seconds"] for record in recorded), abs=0.11)
    rounds = {entry["round"]: entry for entry in told["rounds"]}
    metrics = json.loads((project.folder / "metrics/rounds/r002.json").read_text())
    assert (rounds["r002"]["kl"], rounds["r002"]["parent"]) == (metrics["objective/kl"], "r001")
    lock = project.lock_sizes("r002")
    assert rounds["r002"]["cached_bytes"] == lock and lock > 10_000
    assert "runs\tadvantage\tr001 r002\t" in plain and "advantage.kl_coef 0.05 -> 0.25" in plain
    assert not set("\x1b─│┃") & set(plain)
    project.change("advantage.kl_coef", 0.05)


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
    same = {path for path in found if not path.startswith(("data/settings", "data/models"))}
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
