"""Full tuning by ranks on Ray Train: the files of one process, the same bits each time, and what it survives."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from ray_cluster import running_cluster
from ray_updates import ATTEMPTS, DyingUpdate
from safetensors.torch import load_file
from stage_runs import Stages

from ppo_pipeline.engine.where import ENGINE, WORKERS
from ppo_pipeline.models.tensors import checksum
from ppo_pipeline.resume.snapshots import INTERVAL

TESTS = Path(__file__).parent.parent
pytestmark = pytest.mark.rare  # tests/training/test_sharded.py has the rest


two_nodes = pytest.fixture(scope="module")(running_cluster)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    def whole(params: Any) -> None:
        params["policy"]["tuning"] = "full"
        params["update"].update(minibatches=2, epochs=3, microbatch_tokens=40, gradient_checkpointing=True)

    project = Stages(tmp_path_factory.mktemp("project"), whole)
    project.run("init")
    for stage in ("rollout", "reward", "reference", "advantage"):
        project.run(stage, "r001")
    return project


def tensors(project: Stages) -> dict[str, torch.Tensor]:
    """Return all that the update of r001 has written."""
    paths = [project.path(f"r001/{folder}") for folder in ("policy", "trainer")]
    files = [file for path in paths for file in sorted(path.glob("*.safetensors"))]
    assert [file.name for file in files] == ["model.safetensors", "optimizer.safetensors", "value_head.safetensors"]
    return {f"{file.name} {name}": tensor for file in files for name, tensor in load_file(file).items()}


def test_two_workers_make_one_process_s_files_and_a_killed_one_changes_no_bit(
    two_nodes: None, project: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = project.run("update", "r001")
    wanted, others = tensors(project), sorted(path.name for path in project.path("r001/policy").iterdir())
    monkeypatch.setenv("PYTHONPATH", f"{TESTS.parent}{os.pathsep}{TESTS}")
    monkeypatch.setenv(ENGINE, "ray")
    monkeypatch.setenv(WORKERS, "2")
    shutil.rmtree(project.folder / "data/scratch", ignore_errors=True)
    assert "update r001: 6 of 6 steps" in project.run("update", "r001") and "6 of 6 steps" in alone
    found = tensors(project)
    assert sorted(path.name for path in project.path("r001/policy").iterdir()) == others
    assert {n: (t.shape, t.dtype) for n, t in found.items()} == {n: (t.shape, t.dtype) for n, t in wanted.items()}
    for name, tensor in wanted.items():
        if name.startswith("model"):
            torch.testing.assert_close(found[name], tensor, atol=1e-4, rtol=1e-3)

    shutil.rmtree(project.folder / "data/scratch", ignore_errors=True)
    monkeypatch.setattr("stages.update.RoundUpdate", DyingUpdate)
    monkeypatch.setenv(INTERVAL, "0")
    said = project.run("update", "r001")
    assert (project.folder / ATTEMPTS).read_text().count("\n") == 4, "two ranks, twice"
    assert "minibatches done" in said
    assert checksum(tensors(project)) == checksum(found) != checksum(wanted)
