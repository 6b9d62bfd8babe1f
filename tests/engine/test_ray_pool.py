"""Workers on Ray, on a cluster of two nodes: the same files for any number of them, and what they survive."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import there_now
from ray_cluster import cluster_of_two, find_the_tests, kill_one_worker, ray, running_cluster
from reward_models import save_reward_model
from stage_runs import Stages

from ppo_pipeline.engine.where import ENGINE, STALL, WORKERS
from ppo_pipeline.errors import PipelineError
from ppo_pipeline.observe.counter import Counter
from ppo_pipeline.resume.snapshots import INTERVAL
from ppo_pipeline.settings.sections import Compute

TESTS = Path(__file__).parent.parent
COMPUTE = Compute(device="cpu", dtype="fp32", threads=1, kernels="auto", batch_invariant=False, head="auto")


two_nodes = pytest.fixture(scope="module")(running_cluster)
workers_find_the_tests = pytest.fixture(autouse=True)(find_the_tests)


def few_letters(params: Any) -> None:
    """Set shards of two samples, batches of few tokens, and a reward model beside the rule."""
    params["rollout"]["shard_samples"] = params["evaluate"]["shard_samples"] = 2
    params["rollout"]["max_new_tokens"] = 100
    params["reference"]["batch_tokens"] = 40
    params["reward"]["components"].append(
        {
            "name": "judge", "type": "model", "weight": 1.0, "model": "judge", "revision": None,
            "pickled_weights": False, "input": "concat", "label": None, "output": "logit", "max_tokens": 64,
            "too_long": "cut_start", "ensemble": None, "batch_tokens": 40, "device": "cpu", "dtype": "fp32",
        }
    )  # fmt: skip
    params["sources"] = {"judge": "judge"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    folder = tmp_path_factory.mktemp("project")
    save_reward_model(folder / "judge", "llama")
    project = Stages(folder, few_letters)
    project.run("init")
    return project


def hashes(project: Stages, *stages: str) -> dict[str, str]:
    """Run the stages of r001, and the baseline; return the hashes of what they wrote."""
    for stage in stages:
        start_anew(project)
        project.run(stage, "" if stage == "baseline" else "r001")
    return {stage: hashlib.sha256(file_of(project, stage).read_bytes()).hexdigest() for stage in stages}


def start_anew(project: Stages) -> None:
    """Remove what earlier runs kept: a stage with the same inputs would go on from there, and prove nothing."""
    shutil.rmtree(project.folder / "data/scratch", ignore_errors=True)


def file_of(project: Stages, stage: str) -> Path:
    names = {
        "rollout": "r001/rollouts",
        "reward": "r001/rewards",
        "reference": "r001/reference",
        "baseline": "r000/eval",
    }
    return project.folder / f"data/rounds/{names.get(stage, 'r000/eval')}.parquet"


@pytest.fixture(scope="module")
def expected(project: Stages) -> dict[str, str]:
    """Return the hashes of one process without Ray."""
    return hashes(project, "rollout", "reward", "reference", "baseline")


@pytest.mark.parametrize(
    ("workers", "stages"),
    [
        pytest.param(1, ["rollout"], marks=pytest.mark.rare),
        (2, ["rollout", "reward", "reference", "baseline"]),
        pytest.param(4, ["rollout", "reference"], marks=pytest.mark.rare),
    ],
)
def test_the_number_of_workers_changes_no_bit(
    two_nodes: None, project: Stages, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch, workers: int,
    stages: list[str],
) -> None:  # fmt: skip
    monkeypatch.setenv(ENGINE, "ray")
    monkeypatch.setenv(WORKERS, str(workers))
    assert hashes(project, *stages) == {stage: expected[stage] for stage in stages}
    record = json.loads((project.folder / "logs/r001/rollout.json").read_text())
    assert len(record["workers"]) == workers and sum(worker["tasks"] for worker in record["workers"]) == 4
    assert record["device"] == "cpu" and record["workers_machine"]["threads"] == "1"


@pytest.mark.parametrize("stage", ["rollout", pytest.param("reference", marks=pytest.mark.rare)])
def test_a_worker_that_is_killed_changes_no_bit(
    two_nodes: None, project: Stages, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setenv(ENGINE, "ray")
    monkeypatch.setenv(WORKERS, "2")
    start_anew(project)
    killed = kill_one_worker(monkeypatch, lambda hand: os.kill(hand.pid, signal.SIGKILL))
    said = project.run(stage, "r001")
    assert killed
    lines = [line for line in said.splitlines() if "died" in line]
    assert len(lines) == 1 and lines[0].startswith(f"{stage} r001: worker ") and "starts again" in lines[0]
    assert hashlib.sha256(file_of(project, stage).read_bytes()).hexdigest() == expected[stage]


@pytest.mark.rare
def test_a_node_that_goes_away_changes_no_bit(
    project: Stages, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own: this one is connected to the cluster that the other tests share."""
    program = f"""
import sys
sys.path[:0] = {[str(TESTS.parent), str(TESTS)]!r}
from engine.test_ray_pool import run_while_a_node_goes
run_while_a_node_goes()
"""
    start_anew(project)
    environment = {**os.environ, ENGINE: "ray", WORKERS: "4", INTERVAL: "0"}  # a snapshot a token: time to go
    done = subprocess.run(
        [sys.executable, "-c", program, "rollout"], cwd=project.folder, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "died over task" in done.stdout and "gone" in done.stdout, done.stdout
    assert len(done.stdout.splitlines()) < 8, "Ray says no more than the driver does"
    assert hashlib.sha256(file_of(project, "rollout").read_bytes()).hexdigest() == expected["rollout"]


def run_while_a_node_goes() -> None:
    """Run the stage that the command line names; its second node goes while it works."""
    from stages.__main__ import main

    gone: list[bool] = []
    with cluster_of_two() as (cluster, node), pytest.MonkeyPatch.context() as patch:
        raylet = node.all_processes["raylet"][0].process.pid

        def remove(hand: Any) -> None:
            os.kill(hand.pid, signal.SIGSTOP)  # a node takes seconds to go, and the task less
            cluster.remove_node(node, allow_graceful=False)
            os.kill(hand.pid, signal.SIGKILL)
            gone.append(True)

        kill_one_worker(patch, remove, lambda hand: psutil.Process(hand.pid).ppid() == raylet)
        main([sys.argv[1], "r001"], standalone_mode=False)
    print("gone" if gone else "stayed")


@pytest.mark.rare
def test_the_driver_is_killed_and_run_again(
    project: Stages, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a Ray that the stage starts itself; its processes end with it, and what is done is not done again."""
    environment = {**os.environ, ENGINE: "ray", WORKERS: "2", INTERVAL: "0"}
    command = [sys.executable, "-m", "stages", "rollout", "r001"]
    for _ in range(5):  # on a busy machine this process may look too late
        start_anew(project)
        killed = subprocess.Popen(command, cwd=project.folder, env=environment, stdout=subprocess.PIPE, text=True)
        while killed.poll() is None and not there_now(project.folder, "data/scratch/r001/rollout/*/responses/done-*"):
            time.sleep(0.01)
        killed.kill()
        killed.wait()
        kept = len(there_now(project.folder, "data/scratch/r001/rollout/*/responses/done-*.safetensors"))
        if 0 < kept < 4:
            break
    assert 0 < kept < 4, "killed too late: nothing is proven"
    again = subprocess.run(command, cwd=project.folder, env=environment, capture_output=True, text=True, check=True)
    assert f"goes on from a snapshot, {kept} of 4 shards done" in again.stdout
    assert hashlib.sha256(file_of(project, "rollout").read_bytes()).hexdigest() == expected["rollout"]


@pytest.fixture(scope="module")
def pool(two_nodes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from ppo_pipeline.engine.ray_engine.pool import RayPool

    with chdir(tmp_path_factory.mktemp("pool")), pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{TESTS.parent}{os.pathsep}{TESTS}")
        pool = RayPool(COMPUTE, 2, "stage r001")
        yield pool
        pool.close()


def scripted(pool: Any, folder: Path, tasks: list[str], counter: Counter | None = None) -> list[Any]:
    from ray_works import Scripted

    assert pool.open(Scripted(folder)) == "facts"
    return [task for _, (task, _) in sorted(pool.run(tasks, counter or Counter(len(tasks))))]


def test_a_task_whose_worker_dies_is_done_again_and_counted_once(
    pool: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counter = Counter(8)
    tasks = ["one", "die-once", "two", "three"]
    assert scripted(pool, tmp_path, tasks, counter) == tasks
    assert (counter.done, counter.tokens) == (8, 40)
    assert sorted((tmp_path / "attempts").read_text().split()) == sorted([*tasks, "die-once"])
    said = capsys.readouterr().out.splitlines()
    assert said.count("scripted: opened") == 1, "each worker says it, and it is told once"
    assert sum("died over task 2, which starts again" in line for line in said) == 1


def test_counts_of_the_task_before_are_not_taken_for_those_of_the_next(two_nodes: None) -> None:
    """`counts` may be answered before the next task begins."""
    from ppo_pipeline.engine.ray_engine.hand import Hand
    from ppo_pipeline.engine.ray_engine.worker import Counts

    hand = object.__new__(Hand)
    hand.turn = 2
    for turn, known in ((1, False), (2, True)):
        hand.watch = ray.put(Counts(turn, 3, 0, 40))
        assert (hand.watched() is not None) == known


def test_counts_that_are_there_with_the_answer_do_no_harm(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a node goes: both end at the same moment."""
    from ppo_pipeline.engine.ray_engine.hand import Hand
    from ppo_pipeline.engine.ray_engine.worker import Counts

    def look(self: Any) -> None:
        self.watch = ray.put(Counts(self.turn)) if self.ref is not None else None

    monkeypatch.setattr(Hand, "look", look)
    assert scripted(pool, tmp_path, ["wait 0.5", "one", "two"]) == ["wait 0.5", "one", "two"]


def test_a_fault_of_the_user_is_told_once_and_not_tried_again(pool: Any, tmp_path: Path) -> None:
    with pytest.raises(PipelineError) as caught:
        scripted(pool, tmp_path, ["one", "fail so", "two"])
    assert (type(caught.value), caught.value.message) == (PipelineError, "params.yaml: x: cannot be so")
    assert (tmp_path / "attempts").read_text().count("fail") == 1
    assert caught.value.__cause__ is None and not getattr(caught.value, "__notes__", None)


def test_another_error_keeps_its_type_and_the_worker_s_traceback(pool: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="of the code") as caught:
        scripted(pool, tmp_path, ["break of the code"])
    assert "ray_works.py" in "".join(caught.value.__notes__)


@pytest.mark.rare  # test_a_task_whose_worker_dies_... has a single death
def test_a_task_that_kills_every_worker_ends_the_stage(pool: Any, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="3 deaths are too many"):
        scripted(pool, tmp_path, ["one", "die", "two"])
    assert scripted(pool, tmp_path, ["three"]) == ["three"], "the pool is whole again"


def test_workers_that_stall_end_the_stage(pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(pool, tmp_path, ["one"])
    monkeypatch.setattr(pool, "stall", 2.0)
    with pytest.raises(PipelineError, match=rf"no worker has done anything for 2 s.*{STALL}"):
        scripted(pool, tmp_path, ["wait 30"])


@pytest.mark.parametrize("what", ["files", "code", "torch", "threads", "instructions", "GPU"])
def test_a_worker_with_another_of_what_decides_is_refused_by_name(what: str) -> None:
    from ppo_pipeline.engine.ray_engine.nodes import DECIDES, Identity, refuse_foreign

    here = Identity("here", "a sign", "a hash", {"torch": "2.13.0", "ray": "2.55"}, tuple(f"its {n}" for n in DECIDES))
    refuse_foreign(replace(here, node="there", pid=7), here, here)
    other, said = {
        "files": ({"sign": None}, "does not see .* as this node does"),
        "code": ({"code": "another"}, "has other code of ppo_pipeline than here"),
        "torch": ({"versions": here.versions | {"torch": "2.6.0"}}, r"has torch 2\.6\.0, here has 2\.13\.0"),
    }.get(what) or (
        {"decides": tuple(f"another {n}" if n == what else f"its {n}" for n in DECIDES)},
        f"computes other bits than here: {what} another {what}, not its {what}",
    )
    with pytest.raises(PipelineError, match=f"the node there {said}"):
        refuse_foreign(replace(here, node="there", **other), here, here)


@pytest.mark.rare  # the one before has the comparison
def test_a_node_with_other_instructions_is_refused_by_name() -> None:
    program = f"""
import sys
sys.path[:0] = {[str(TESTS.parent), str(TESTS)]!r}
from engine.test_ray_pool import COMPUTE
from ray_cluster import cluster_of_two
with cluster_of_two(env_vars={{"ATEN_CPU_CAPABILITY": "default"}}):
    from ppo_pipeline.engine.ray_engine.pool import RayPool
    RayPool(COMPUTE, 4, "rollout r001")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=TESTS.parent, capture_output=True, text=True)
    assert "computes other bits than" in done.stderr and ": instructions " in done.stderr, done.stderr
    assert "DEFAULT" in done.stderr
