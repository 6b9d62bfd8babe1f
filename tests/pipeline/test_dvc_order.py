"""The order in which the real dvc runs the stages: each round is evaluated before the next one is sampled."""

import re
from pathlib import Path

import pytest
from dvc_project import ForetoldProject

from ppo_pipeline.project.plan.reruns import reruns
from ppo_pipeline.project.sealing.tracked import dvc_project
from ppo_pipeline.settings.params import load_params

pytestmark = pytest.mark.slow

SHARED = ["code", "prompts", "source@base", "settings", "base", "init", "baseline"]  # prompts: checked by settings
ROUND = ["rollout", "reference", "reward", "advantage", "update", "evaluate"]


def test_each_round_is_evaluated_right_after_its_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = ForetoldProject(tmp_path)
    parents = {"r001": "r000", "r002": "r001", "r002b": "r001", "r003": "r002"}
    project.change("rounds", {name: {"parent": parent} for name, parent in parents.items()})
    ran = re.findall(r"^Running stage '([^']+)'", project.run("dvc", "repro", "--dry", "--force"), re.MULTILINE)
    assert ran[: len(SHARED)] == SHARED and ran[-1] == "summary"
    by_round = [[stage.split("@") for stage in ran[first : first + 6]] for first in range(len(SHARED), len(ran) - 1, 6)]
    assert [{name for _, name in stages} for stages in by_round] == [{name} for name in parents]
    for stages in by_round:
        assert [stage for stage, _ in stages] == ROUND
    monkeypatch.chdir(tmp_path)
    with dvc_project() as dvc:
        assert [found.stage for found in reruns(dvc.repo, load_params())] == ran, "ppo-pipeline status says the same"
