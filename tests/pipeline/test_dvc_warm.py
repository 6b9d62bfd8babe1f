"""Warm starts under the real dvc and torch: the same hashes as without."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from dvc_project import Project

from ppo_pipeline.project.stages import OF_A_ROUND

# rare: tests/resume/test_killed.py runs stages warm and cold, and compares the hashes.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.rare,
    pytest.mark.skipif(sys.platform != "linux", reason="warm starts are for Linux"),
]


def ran_warm(project: Project, name: str) -> dict[str, bool]:
    records = (json.loads(path.read_text()) for path in (project.folder / "logs" / name).glob("*.json"))
    return {record["stage"]: record["warm"] for record in records}


def test_warm_and_cold_give_the_same_bits(ran: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all stages that start warm, and those behind them; the others, of which `base` takes long, have run."""
    hashes = []
    for setting in ("1", "0"):
        monkeypatch.setenv("PPO_PIPELINE_WARM", setting)
        project = Project.copy_of(ran, tmp_path / setting)
        for kept in (".dvc/cache/runs", "logs"):
            shutil.rmtree(project.folder / kept)
        project.change("rounds", {"r001": {"parent": "r000"}})
        project.change("seed", 5)
        project.change("compute.threads", 2)  # OpenMP's threads start in the child
        assert {"init", "baseline", "summary", *(f"{stage}@r001" for stage in OF_A_ROUND)} <= project.repro()
        hashes.append(project.hashes())
        warm = ran_warm(project, "r001")
        light = [warm.pop(name) for name in ("reward", "advantage")]  # warm where the server answers at once
        assert warm == dict.fromkeys(("rollout", "reference", "update", "evaluate"), setting == "1")
        assert setting == "1" or not any(light)
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) > 15
