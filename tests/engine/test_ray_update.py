"""The update by ranks on Ray Train: the same files for any number of them, and what they survive."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ray_cluster import find_the_tests, running_cluster
from ray_updates import ATTEMPTS, DyingUpdate, SpoiledUpdate
from stage_runs import Stages

from ppo_pipeline.engine.ray_engine.desk import Desk
from ppo_pipeline.engine.where import ENGINE, WORKERS
from ppo_pipeline.errors import PipelineError
from ppo_pipeline.observe.counter import Counter
from ppo_pipeline.project.stage_run import StageRun
from ppo_pipeline.resume.snapshots import INTERVAL
from stages.__main__ import main

two_nodes = pytest.fixture(scope="module")(running_cluster)
workers_find_the_tests = pytest.fixture(autouse=True)(find_the_tests)


def in_groups(params: Any) -> None:
    params["update"].update(gradient_groups=4, minibatches=2, epochs=3, microbatch_tokens=40)
    params["policy"]["dropout"] = 0.2


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    project = Stages(tmp_path_factory.mktemp("project"), in_groups)
    project.run("init")
    for stage in ("rollout", "reward", "reference", "advantage"):
        project.run(stage, "r001")
    return project


def hashes(project: Stages) -> dict[str, str]:
    """Return the hashes of what the update of r001 has written."""
    folders = [project.path("r001/policy"), project.path("r001/trainer")]
    files = [path for folder in folders for path in folder.iterdir()]
    files.append(project.folder / "metrics/stages/r001/update.json")
    assert len(files) >= 5
    return {str(path.relative_to(project.folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def expected(project: Stages) -> dict[str, str]:
    """Return the hashes of one process without Ray."""
    project.run("update", "r001")
    return hashes(project)


def on_ray(project: Stages, monkeypatch: pytest.MonkeyPatch, workers: int, update: type | None = None) -> None:
    """Have the update run on so many workers, from its start; update: another work in its place."""
    shutil.rmtree(project.folder / "data/scratch", ignore_errors=True)
    (project.folder / ATTEMPTS).unlink(missing_ok=True)
    monkeypatch.setenv(ENGINE, "ray")
    monkeypatch.setenv(WORKERS, str(workers))
    if update is not None:
        monkeypatch.setattr("stages.update.RoundUpdate", update)


@pytest.mark.parametrize(
    "workers", [pytest.param(1, marks=pytest.mark.rare), 2, pytest.param(4, marks=pytest.mark.rare)]
)
def test_the_number_of_workers_changes_no_bit(
    two_nodes: None, project: Stages, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    stored: list[str] = []
    remove = shutil.rmtree

    def seen(folder: Any, **options: Any) -> None:
        if Path(folder).name == "ray-train":
            stored.extend(path.name for path in Path(folder).rglob("*") if path.is_file())
        remove(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", seen)
    on_ray(project, monkeypatch, workers)
    said = project.run("update", "r001")
    assert hashes(project) == expected
    assert said.count("update r001: 6 of 6 steps") == 1 and "Warning" not in said
    record = json.loads((project.folder / "logs/r001/update.json").read_text())
    assert len(record["workers"]) == workers and record["device"] == "cpu"
    assert record["workers_machine"]["threads"] == "1" and record["tokens_per_second"] > 0
    assert stored and set(stored) <= {".validate_storage_marker", "checkpoint_manager_snapshot.json"}, "nothing pickled"
    assert not list((project.folder / "data/scratch").rglob("ray-train"))


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, dict[str, float]]]:
    """Return a list that is told the numbers of each optimizer step, as TensorBoard is, in this process."""
    told: list[tuple[int, dict[str, float]]] = []
    monkeypatch.setattr(Counter, "step", lambda self, number, numbers: told.append((number, numbers)))
    return told


def test_a_rank_that_is_killed_changes_no_bit(
    two_nodes: None, project: Stages, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch, steps: list[Any]
) -> None:
    project.run("update", "r001")
    alone, counts = [*steps], []
    assert [number for number, _ in alone] == [1, 2, 3, 4, 5, 6]
    shown = StageRun.progress

    @contextmanager
    def progress(self: Any, total: int, *unit: str) -> Iterator[Any]:
        with shown(self, total, *unit) as counter:
            yield counter
        counts.append((counter.total, counter.done, counter.tokens))

    monkeypatch.setattr(StageRun, "progress", progress)
    project.run("update", "r001")
    steps.clear()
    on_ray(project, monkeypatch, 2, DyingUpdate)
    monkeypatch.setenv(INTERVAL, "0")
    said = project.run("update", "r001")
    assert hashes(project) == expected
    assert (project.folder / ATTEMPTS).read_text().count("\n") == 4, "two ranks, twice"
    lines = [line for line in said.splitlines() if "start again" in line]
    assert len(lines) == 1 and lines[0].startswith("update r001: worker 2 of 2 on ") and " died; " in lines[0], said
    assert len(re.findall("goes on from a snapshot, [123] minibatches done", said)) == 1
    assert steps == alone, "each step is told once, with the same numbers"
    assert counts[0] == counts[1], "items and tokens are counted once"


def refused(project: Stages) -> str:
    """Run the update, which ends with an error of the user; return what it says."""
    with chdir(project.folder):
        done = CliRunner().invoke(main, ["update", "r001"])
    assert done.exit_code == 1 and "Traceback" not in done.output, done.output
    return done.output


@pytest.mark.rare  # tests/training/test_gradient_groups.py has ranks that tell a fault of one
def test_a_fault_that_one_rank_meets_is_told_once_and_not_tried_again(
    two_nodes: None, project: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_ray(project, monkeypatch, 2, SpoiledUpdate)
    said = refused(project)
    assert said.count("the loss of optimizer step 1 is nan") == said.count("Error: ") == 1
    kept = re.search(r"The state before that step is in (\S+)\.$", said, re.MULTILINE)
    assert kept is not None and (project.folder / kept[1] / "tensors.safetensors").is_file()
    assert sorted((project.folder / ATTEMPTS).read_text().split()) == ["0", "1"]


@pytest.mark.rare
def test_workers_without_a_group_of_their_own_have_no_part(
    two_nodes: None, project: Stages, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_ray(project, monkeypatch, 3)
    said = project.run("update", "r001")
    assert "update r001: 2 of 3 workers have a part (update.gradient_groups)" in said
    assert hashes(project) == expected


def test_ranks_for_which_there_is_no_room_are_refused(two_nodes: None) -> None:
    from ppo_pipeline.engine.ray_engine.resources import Needs, require_all

    require_all(Needs(1, 0), 4)
    with pytest.raises(PipelineError, match=r"compute.workers: 8: the Ray cluster has room for 4 workers"):
        require_all(Needs(1, 0), 8)


def test_what_ray_train_ends_with_is_told() -> None:
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
    from ray.train.v2.api.exceptions import WorkerGroupError

    from ppo_pipeline.engine.ray_engine.train import _told

    of_the_code = WorkerGroupError("ValueError: of the code", {0: ValueError("of the code")})
    assert _told(of_the_code, "update r001") is of_the_code, "with the worker's traceback"
    dead = WorkerHealthCheckFailedError("a check failed", RuntimeError("gone"))
    died = WorkerGroupError("rank 1", {0: RuntimeError("[gloo/pair.cc] Connection closed"), 1: dead})
    told = _told(died, "update r001")
    assert isinstance(told, PipelineError) and told.message.startswith("update r001: the workers failed 3 times.")


def test_the_desk_counts_what_is_done_twice_once() -> None:
    desk = Desk()
    desk.meet(())
    for done, tokens in ((2, 20), (4, 45), (6, 60)):
        desk.count(done, 0, tokens)
        desk.step(done // 2, {"loss": float(done)})
    word = desk.take()
    assert (word.done, word.tokens, [number for number, _ in word.steps]) == (6, 60, [1, 2, 3])
    desk.meet(())
    desk.count(4, 4, 0)  # from the snapshot behind the second step
    assert (desk.take().done, desk.take().tokens, desk.take().skipped) == (6, 60, 0)
    desk.count(6, 4, 15)
    desk.step(3, {"loss": 6.0})
    desk.count(8, 4, 40)
    desk.step(4, {"loss": 8.0})
    word = desk.take()
    assert (word.done, word.tokens, [number for number, _ in word.steps]) == (8, 85, [4])
