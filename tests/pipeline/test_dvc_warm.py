"""Warm starts under the real dvc and torch: the same hashes as without."""

import json
import sys
from pathlib import Path

import pytest
from dvc_project import Project

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="warm starts are for Linux")]


def ran_warm(project: Project, name: str) -> dict[str, bool]:
    records = (json.loads(path.read_text()) for path in (project.folder / "logs" / name).glob("*.json"))
    return {record["stage"]: record["warm"] for record in records}


def test_warm_and_cold_give_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = []
    for setting in ("1", "0"):
        monkeypatch.setenv("PPO_PIPELINE_WARM", setting)
        (tmp_path / setting).mkdir()
        project = Project(tmp_path / setting)
        project.change("rounds", {"r001": {"parent": "r000"}})
        project.change("compute.threads", 2)  # OpenMP's threads start in the child
        project.repro()
        hashes.append(project.hashes())
        warm = ran_warm(project, "r001")
        light = [warm.pop(name) for name in ("reward", "advantage")]  # warm where the server answers at once
        assert warm == dict.fromkeys(("rollout", "reference", "update", "evaluate"), setting == "1")
        assert setting == "1" or not any(light)
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) > 15
