"""vLLM within the workers of Ray: the same file for any number of them, and what a rollout survives."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ray_cluster import find_the_tests, kill_one_worker, running_cluster
from served_models import needs_vllm, save_served
from stage_runs import Stages

from ppo_pipeline.engine.where import ENGINE, WORKERS
from ppo_pipeline.sampling.generate import Sampling
from ppo_pipeline.settings.sections import Compute, Vllm

pytestmark = needs_vllm
TESTS = Path(__file__).parent.parent
SHARDS = 4

two_nodes = pytest.fixture(scope="module")(running_cluster)
workers_find_the_tests = pytest.fixture(autouse=True)(find_the_tests)


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB, of this process and of each worker


def with_vllm(params: Any) -> None:
    params["rollout"].update(engine="vllm", shard_samples=2, max_new_tokens=40)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    folder = tmp_path_factory.mktemp("project")
    project = Stages(folder, with_vllm)
    save_served(folder / "data/base")
    project.run("init")
    return project


def rollouts(project: Stages, anew: bool = True) -> str:
    """Run the stage; return the hash of what it wrote. anew: without what earlier runs kept."""
    if anew:
        shutil.rmtree(project.folder / "data/scratch", ignore_errors=True)
    project.path("r001/rollouts.parquet").unlink(missing_ok=True)
    said = project.run("rollout", "r001")
    assert all(line.startswith("rollout r001: ") for line in said.splitlines() if line), f"no other has a say: {said}"
    return hashlib.sha256(project.path("r001/rollouts.parquet").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def expected(project: Stages) -> str:
    """Return the hash of one process without Ray."""
    found = rollouts(project)
    assert len({tuple(ids) for ids in project.column("r001/rollouts.parquet", "response_ids")}) == 2 * SHARDS
    return found


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the shards that workers have been given, in this order."""
    from ppo_pipeline.engine.ray_engine.hand import Hand

    give, places = Hand.give, []

    def note(self: Any, place: int, task: Any, of: object) -> None:
        places.append(place)
        give(self, place, task, of)

    monkeypatch.setattr(Hand, "give", note)
    return places


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_no_bit(
    two_nodes: None, project: Stages, expected: str, given: list[int], monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setenv(ENGINE, "ray")
    monkeypatch.setenv(WORKERS, str(workers))
    assert rollouts(project) == expected
    assert sorted(given) == [*range(SHARDS)]
    record = json.loads((project.folder / "logs/r001/rollout.json").read_text())
    assert len(record["workers"]) == workers


def test_a_worker_that_is_killed_changes_no_bit_and_repeats_its_shard_alone(
    two_nodes: None, project: Stages, expected: str, given: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENGINE, "ray")
    monkeypatch.setenv(WORKERS, "2")
    lost: list[int] = []

    def kill(hand: Any) -> None:
        lost.append(hand.place)
        os.kill(hand.pid, signal.SIGKILL)

    kill_one_worker(monkeypatch, kill)
    assert rollouts(project) == expected
    assert len(lost) == 1 and sorted(given) == sorted([*range(SHARDS), *lost])


def test_the_driver_is_killed_and_run_again(
    two_nodes: None, project: Stages, expected: str, given: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """First on a Ray that the stage starts itself, then on that of these tests."""
    program = f"""
import os, sys
sys.path[:0] = {[str(TESTS.parent), str(TESTS)]!r}
from ppo_pipeline.sampling.shards import _Kept
from stages.__main__ import main
write, written = _Kept.write, []

def write_two(self, number, responses):
    write(self, number, responses)
    written.append(number)
    if len(written) == 2:
        os.kill(os.getpid(), {int(signal.SIGKILL)})

_Kept.write = write_two
main(["rollout", "r001"], standalone_mode=False)
"""
    shutil.rmtree(project.folder / "data/scratch", ignore_errors=True)
    monkeypatch.setenv(ENGINE, "ray")
    monkeypatch.setenv(WORKERS, "1")
    killed = subprocess.run([sys.executable, "-c", program], cwd=project.folder, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = project.folder.glob("data/scratch/r001/rollout/*/responses/done-*.safetensors")
    assert len([*done]) == 2
    assert rollouts(project, anew=False) == expected
    assert len(given) == SHARDS - 2


def test_a_worker_takes_as_many_gpus_as_its_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    from ppo_pipeline.engine.ray_engine import resources
    from ppo_pipeline.engine.ray_engine.resources import Needs, needs_of, placeable

    nodes = [{"Alive": True, "Resources": {"CPU": 8, "GPU": gpus}} for gpus in (5, 1)]
    monkeypatch.setattr(resources.ray, "cluster_resources", lambda: {"CPU": 16, "GPU": 6})
    monkeypatch.setattr(resources.ray, "nodes", lambda: nodes)
    compute = Compute(device="auto", dtype="auto", threads=1, kernels="auto", batch_invariant=False, head="auto")
    sampling = Sampling(8, 8, vllm=Vllm(tensor_parallel=2, gpu_memory=0.9))
    needs = needs_of(compute, 1, 2, "rollout r001", sampling.gpus)
    assert needs == Needs(1, 2)
    assert placeable(needs, 3, "rollout r001") == 2, "one vLLM does not lie across two nodes"
    assert needs_of(compute.model_copy(update={"device": "cpu"}), 1, 1, "rollout r001", sampling.gpus).gpus == 0


def test_what_the_user_sets_for_vllm_reaches_the_workers_without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    from ppo_pipeline.engine.ray_engine.start import worker_environment

    monkeypatch.setenv("VLLM_ATTENTION_BACKEND", "TRITON_ATTN")
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    found = worker_environment(1)
    assert found["VLLM_ATTENTION_BACKEND"] == "TRITON_ATTN" and "secret" not in found.values()
