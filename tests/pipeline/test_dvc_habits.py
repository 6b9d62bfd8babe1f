"""What people do with DVC around the pipeline: experiments, comparisons, and a remote from which a clone goes on."""

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from dvc_project import Project, stages_run

pytestmark = pytest.mark.slow
ROUND_3 = {f"{stage}@r003" for stage in ("rollout", "reward", "reference", "advantage", "update", "evaluate")}
SHORT = ("--only-changed", "--drop", ".*/.*|Created|State|Executor")


def commit(project: Project, message: str) -> None:
    project.run("git", "add", "--all")
    project.run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", message)


def of_rounds(project: Project, *names: str) -> dict[str, str]:
    return {path: digest for path, digest in project.hashes().items() if any(f"/{n}/" in path for n in names)}


@pytest.fixture(scope="module")
def project(ran: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project.copy_of(ran, tmp_path_factory.mktemp("project"))
    made.run("git", "config", "user.name", "a")
    made.run("git", "config", "user.email", "a@b")
    commit(made, "two rounds")
    return made


@pytest.fixture(scope="module")
def experiment(project: Project) -> str:
    """An experiment in a folder of its own; the working folder stays as it is."""
    before = project.run("git", "status", "--porcelain")
    said = project.run("dvc", "exp", "run", "--temp", "--name", "more", "--set-param", "advantage.kl_coef=0.1")
    assert project.run("git", "status", "--porcelain") == before == ""
    return said


def test_an_experiment_runs_what_its_setting_touches(experiment: str) -> None:
    # r001's KL is 0, so its advantages come out the same and everything behind them stands.
    wanted = {"settings", "advantage@r001", "advantage@r002", "update@r002", "evaluate@r002", "summary"}
    assert stages_run(experiment) == wanted


def test_exp_show_is_a_short_table_of_what_differs(project: Project, experiment: str) -> None:
    table = list(csv.DictReader(io.StringIO(project.run("dvc", "exp", "show", "--csv", *SHORT))))
    assert {row["Experiment"] or row["rev"]: row["advantage.kl_coef"] for row in table} == {
        "workspace": "0.05", "master": "0.05", "more": "0.1",
    }  # fmt: skip
    numbers = set(table[0]) - {"Experiment", "rev", "typ", "parent", "advantage.kl_coef"}
    assert "value_loss" in numbers
    assert numbers <= set(json.loads((project.folder / "metrics/summary.json").read_text()))


def test_metrics_and_params_diff_say_it_in_a_few_lines(project: Project, experiment: str) -> None:
    def rows(*command: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(project.run("dvc", *command, "diff", "master", "more", "--json"))
        return found

    assert rows("params") == {"params.yaml": {"advantage.kl_coef": {"old": 0.05, "new": 0.1, "diff": 0.05}}}
    ((path, changes),) = rows("metrics").items()
    assert path == "metrics/summary.json"
    assert 0 < len(changes) < 12 and changes["value_loss"]["diff"] != 0


def test_every_plot_has_a_title_labelled_axes_and_both_revisions(project: Project, experiment: str) -> None:
    plots = json.loads(project.run("dvc", "plots", "diff", "master", "more", "--json"))["data"]
    assert set(plots) == {"reward", "kl", "response_length", "entropy", "value_loss", "clip_fraction"}
    for (plot,) in plots.values():
        assert plot["revisions"] == ["master", "more"]
        assert plot["content"]["title"]["text"][0].isupper()
        text = json.dumps(plot["content"]["encoding"] if "encoding" in plot["content"] else plot["content"]["layer"])
        assert '"title": "round"' in text
        assert '"title": "depth"' not in text


class Shared(NamedTuple):
    """The project after a third round; a clone of it as it was before, without data; the third rounds' hashes."""

    project: Project
    clone: Callable[[Path], Project]
    wanted: dict[str, str]


@pytest.fixture(scope="module")
def shared(project: Project, experiment: str, tmp_path_factory: pytest.TempPathFactory) -> Shared:
    remote, origin = tmp_path_factory.mktemp("remote"), tmp_path_factory.mktemp("origin") / "origin"
    project.run("dvc", "remote", "add", "--force", "--default", "here", str(remote))
    commit(project, "a remote")
    project.run("dvc", "push", "--quiet")
    project.run("git", "clone", "--quiet", "--bare", str(project.folder), str(origin))
    project.run("ppo-pipeline", "rounds", "add", "1")
    assert project.repro() == {"settings", "summary"} | ROUND_3

    def clone(folder: Path) -> Project:
        project.run("git", "clone", "--quiet", str(origin), str(folder))
        made = object.__new__(Project)
        made.folder = folder
        return made

    wanted = of_rounds(project, "r001", "r002", "r003")
    assert len(wanted) == 51
    return Shared(project, clone, wanted)


def test_a_clone_pulls_and_goes_on_without_computing_what_is_there(shared: Shared, tmp_path: Path) -> None:
    other, clone = shared.clone(tmp_path / "clone"), tmp_path / "clone"
    other.run("dvc", "pull", "--quiet", "data/rounds/r002/rollouts.parquet")
    assert [p.relative_to(clone).as_posix() for p in clone.glob("data/rounds/*/*")] == [
        "data/rounds/r002/rollouts.parquet"
    ]
    other.run("dvc", "pull", "--quiet", "rollout@r001", "update@r001")
    assert {p.name for p in clone.glob("data/rounds/r001/*")} == {
        "rollouts.parquet", "policy", "trainer", "average",
    }  # fmt: skip

    other.run("dvc", "pull", "--quiet")
    assert other.repro() == set()
    other.run("ppo-pipeline", "rounds", "add", "1")
    assert other.repro() == {"settings", "summary"} | ROUND_3
    assert of_rounds(other, "r001", "r002", "r003") == shared.wanted
    for name in ("training.csv", "heldout.csv", "critic.csv", "summary.json"):
        assert (shared.project.folder / "metrics" / name).read_bytes() == (clone / "metrics" / name).read_bytes()


@pytest.mark.rare  # the one before has a clone with all that is there
def test_a_clone_goes_on_with_the_least_that_it_needs(shared: Shared, tmp_path: Path) -> None:
    least = shared.clone(tmp_path / "least")
    least.run("ppo-pipeline", "rounds", "add", "1")
    with pytest.raises(AssertionError, match=r"evaluate\.json: no such file, and the learning curve would lose r000"):
        least.repro("--pull", "--allow-missing")
    assert {p.name for p in least.folder.glob("data/rounds/*/*") if "r003" not in p.parts} == {
        "policy", "trainer", "prompt_scores.parquet",
    }  # fmt: skip
    least.run("git", "checkout", "--quiet", ".")
    small = re.findall(r"path: (metrics/stages/\S+json)", (least.folder / "dvc.lock").read_text())
    least.run("dvc", "pull", "--quiet", *small)
    least.run("ppo-pipeline", "rounds", "add", "1")
    assert "update@r002" not in least.repro("--pull", "--allow-missing")
    assert of_rounds(least, "r001", "r002", "r003") == shared.wanted
    training = "metrics/training.csv"
    assert (least.folder / training).read_bytes() == (shared.project.folder / training).read_bytes()
