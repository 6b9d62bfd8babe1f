"""`ppo-pipeline seeds` with real git and real DVC, over a pipeline of two tiny scripts."""

import csv
import os
import re
import signal
from pathlib import Path

import pytest
from conftest import there_now
from seeds_project import SeedsProject
from warm_project import until

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path: Path) -> SeedsProject:
    return SeedsProject(tmp_path)


STATE = {"files": "diff HEAD", "commits": "log --branches --oneline", "stash": "stash list"}


def rows(project: SeedsProject, name: str = "seeds") -> dict[tuple[str, str], dict[str, str]]:
    with (project.folder / f"metrics/seeds/{name}.csv").open() as file:
        return {(row["metric"], row["round"]): row for row in csv.DictReader(file)}


def test_seeds_run_once_and_a_failing_one_leaves_the_others(project: SeedsProject) -> None:
    settings = project.folder / "params.yaml"
    settings.write_text(re.sub(r"(?m)^  lr: .*$", "  lr: 0.25", settings.read_text()))  # not committed: taken as it is
    before = {name: project.run("git", *command.split()) for name, command in STATE.items()}
    said = project.seeds("3", "-S", "update.epochs=7", FAIL="1", code=1)
    assert "seed 0 (1 of 3): held-out +0.250 after 1 round" in said and "; about " in said
    assert "seed 1 (2 of 3): failed" in said and "seed 2 (3 of 3): held-out +4.250" in said
    assert "Error: failed: seed 1; see logs/seeds/seeds/seed-1.log" in said
    assert "this seed fails" in (project.folder / "logs/seeds/seeds/seed-1.log").read_text()
    told = project.told()  # base once: the cache is shared
    assert told == ["base", "train 0 77", "train 1 77", "train 2 77"]
    row = rows(project)["eval/scores", "r001"]
    assert (row["n"], row["median"], row["min"], row["max"]) == ("2", "2.25", "0.25", "4.25")
    assert (row["seed_0"], row["seed_2"]) == ("0.25", "4.25") and "seed_1" not in row
    # Again: the failed one alone, in its old folder, where what it kept still lies.
    said = project.seeds("3", "-S", "update.epochs=7")
    assert project.told() == ["train 1 77"] and "seed 0: done already" in said
    found = rows(project)
    assert found["eval/scores", "r001"]["q1"] == "0.75"  # of 0.25, 1.25, 4.25
    assert found["epochs", "r001"]["seed_2"] == "7.0"
    assert found["starts", "r001"]["seed_1"] == "2.0"
    assert "| r001 | 3 | 1.25 | 0.75 | 2.75 | 0.25 | 4.25 |" in said
    assert said.partition("\n## ")[2] == project.seeds("--show").partition("\n## ")[2]
    assert not list((project.folder / ".dvc/tmp/seeds/seeds").iterdir()), "folders of seeds that are done stay"
    after = {name: project.run("git", *command.split()) for name, command in STATE.items()}
    assert after == before, "the project itself was touched"
    # Other settings or other code do not pass for the same.
    said = project.seeds("3", "-S", "update.epochs=8", code=1)
    assert "--name seeds: taken" in said and "(update.epochs 7 -> 8)" in said
    hidden = "data/scratch/hidden.jsonl"
    (project.folder / hidden).parent.mkdir()
    (project.folder / hidden).touch()
    said = project.seeds("1", "-S", f"prompts.source={hidden}", "--name", "hidden", code=1)
    assert f"{hidden}: not in git, nor in DVC's cache" in said
    (project.folder / "reward_functions/__init__.py").write_text("WEIGHT = 2\n")
    said = project.seeds("3", "-S", "update.epochs=7", code=1)
    assert "is of something else (code, prompts or models)" in said
    assert project.told() == []


def test_a_killed_command_ends_its_runs_and_goes_on_later(project: SeedsProject) -> None:
    process = project.start("python", "-m", "ppo_pipeline.cli.main", "seeds", "2", "--jobs", "2", HANG="1")
    hanging = project.folder / ".dvc/tmp/seeds/seeds/seed-1/data/scratch"
    until(lambda: bool(there_now(hanging, "train")))
    until(lambda: bool(there_now(project.folder, ".git/refs/exps/*/*/seeds-seed-0")))
    assert "its seeds are being computed already" in project.seeds("1", code=1)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate()
    assert process.returncode == 130 and "the same command goes on from there" in said
    share = max(1, (os.cpu_count() or 1) // 2)
    assert sorted(project.told()) == ["base", f"train 0 {share}", f"train 1 {share}"]
    project.seeds("2")
    assert project.told() == ["train 1 77"]
    assert rows(project)["starts", "r001"]["seed_1"] == "2.0"
