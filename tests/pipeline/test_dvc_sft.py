"""Supervised training under the real dvc: what reruns it and what follows, its metrics and curve, its kill."""

import json
import os
import shutil
import signal
import time

import pytest
from dvc_project import ForetoldProject, Project
from sft_project import write_talk
from supervised_entries import sft_values

from ppo_pipeline.resume.snapshots import INTERVAL

pytestmark = pytest.mark.slow

OF_START = {"init", "baseline", *(f"{stage}@r001" for stage in ("rollout", "reference", "update", "evaluate"))}


@pytest.fixture(scope="module")
def project(ran: Project, tmp_path_factory: pytest.TempPathFactory) -> ForetoldProject:
    made = ForetoldProject.copy_of(ran, tmp_path_factory.mktemp("project"))
    shutil.rmtree(made.folder / ".dvc/cache/runs")  # a start at data/base is run here, not taken from there
    write_talk(made.folder / "data/talk.jsonl")
    made.change("sft", {"chat": sft_values(lr=0.01, epochs=3, max_tokens=200)})
    made.change("policy.start", "data/sft/chat")
    made.change("rounds", {"r001": {"parent": "r000"}})
    assert {"sft@chat"} | OF_START <= made.repro()
    return made


def test_its_result_is_hashed_and_its_metrics_and_curve_are_dvc_s(project: ForetoldProject) -> None:
    assert {"data/sft/chat", "metrics/sft/chat.json", "metrics/sft/chat.csv"} <= set(project.hashes())
    shown = json.loads(project.run("dvc", "metrics", "show", "--json"))[""]["data"]
    assert shown["metrics/sft/chat.json"]["data"]["train/rows"] == 9
    plots = project.run("dvc", "plots", "show", "--json", "metrics/sft/chat.csv")
    assert '"loss"' in plots and '"step"' in plots
    assert project.repro() == set()


def test_only_what_it_depends_on_reruns_it_and_a_start_elsewhere_what_starts_there(project: ForetoldProject) -> None:
    before = project.hashes()
    project.change("advantage.kl_coef", 0.9)
    assert "sft@chat" not in project.repro()
    project.change("policy.start", "data/base")
    assert project.repro() >= OF_START
    assert project.hashes()["data/sft/chat"] == before["data/sft/chat"]
    assert project.hashes()["data/rounds/r000/policy"] != before["data/rounds/r000/policy"]
    project.change("advantage.kl_coef", 0.05)
    project.change("policy.start", "data/sft/chat")
    project.repro()
    assert project.hashes() == before
    with (project.folder / "data/talk.jsonl").open("a") as file:
        file.write('{"prompt": "Say m", "completion": "mm", "split": "train"}\n')
    process = project.start("ppo-pipeline", "rounds", "seal", "--through", "r001")
    assert "Stage sft@chat is outdated (data/talk.jsonl modified)" in "".join(process.communicate())
    write_talk(project.folder / "data/talk.jsonl")
    assert project.repro() == set()


def test_killed_it_goes_on_to_the_same_hashes(project: ForetoldProject, monkeypatch: pytest.MonkeyPatch) -> None:
    project.change("sft.chat.epochs", 12)
    project.change("sft.chat.microbatch_tokens", 20)
    monkeypatch.setenv(INTERVAL, "0")
    process = project.start("dvc", "repro", "sft@chat")
    scratch = project.folder / "data/scratch/chat/sft"
    deadline = time.monotonic() + 300
    while not list(scratch.glob("*/steps/0*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)

    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert list(scratch.glob("*/steps/0*")) and not list(scratch.glob("*/done"))
    said = project.run("dvc", "repro", "sft@chat")
    assert "sft chat: goes on from a snapshot" in said
    found = project.hashes()
    shutil.rmtree(project.folder / "data/sft/chat")
    project.run("dvc", "repro", "--force", "--single-item", "sft@chat")
    names = ("data/sft/chat", "metrics/sft/chat.json", "metrics/sft/chat.csv")
    assert [project.hashes()[name] for name in names] == [found[name] for name in names]
