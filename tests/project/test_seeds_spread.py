"""What several seeds have in common, against numbers worked by hand; its file, read back; its tables and bands."""

import csv
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from report_project import write_project

from ppo_pipeline.cli.main import main
from ppo_pipeline.errors import PipelineError
from ppo_pipeline.project.seeds.git import git, head, snapshot
from ppo_pipeline.project.seeds.spread import lineage, read_spread, spread, statistics, write_spread
from ppo_pipeline.report.contents import contents
from ppo_pipeline.report.run import Run

# r002b branches off, and the main line goes on to r003.
PARENTS = {"r000": "", "r001": "r000", "r002": "r001", "r003": "r002", "r002b": "r001"}


def metrics() -> dict[int, dict[str, dict[str, Any]]]:
    scores = {3: [0.0, 1.0, 2.0, 3.0, 4.0], 4: [0.0, 3.0, 9.0, 9.0, 8.0], 5: [0.0, 2.0, 9.0, 9.0, 0.5]}
    found: dict[int, dict[str, dict[str, Any]]] = {
        seed: {name: {"eval/scores": score} for name, score in zip(PARENTS, numbers, strict=True)}
        for seed, numbers in scores.items()
    }
    found[4]["r001"] |= {"objective/kl": 0.25, "a text": "x", "a flag": True}
    return found


def test_quartiles_are_interpolated_between_the_sorted_numbers() -> None:
    # Places 0.25 x 3 = 0.75 and 2.25 in 1, 2, 4, 8: 1 + 0.75 x 1, and 4 + 0.25 x 4; the median half-way from 2 to 4.
    assert statistics([8, 1, 4, 2]) == {"median": 3.0, "q1": 1.75, "q3": 5.0, "min": 1.0, "max": 8.0}
    assert statistics([5.0]) == dict.fromkeys(("median", "q1", "q3", "min", "max"), 5.0)


def test_a_row_per_metric_and_round_and_the_same_from_its_file(tmp_path: Path) -> None:
    rows = spread(metrics(), PARENTS)
    assert [(row.metric, row.round, row.depth) for row in rows] == [
        ("eval/scores", "r000", 0), ("eval/scores", "r001", 1), ("eval/scores", "r002", 2), ("eval/scores", "r003", 3),
        ("eval/scores", "r002b", 2), ("objective/kl", "r001", 1),
    ]  # fmt: skip
    assert rows[1].statistics == {"median": 2.0, "q1": 1.5, "q3": 2.5, "min": 1.0, "max": 3.0}
    assert rows[-1].of_seeds == {4: 0.25}
    path = tmp_path / "some.csv"
    write_spread(path, rows, [3, 4, 5])
    assert read_spread(path) == rows and lineage(rows) == ["r000", "r001", "r002", "r003"]
    with path.open() as file:
        lines = list(csv.DictReader(file))
    told = "eval/scores r001 r000 1 3 2.0 1.5 2.5 1.0 3.0 1.0 3.0 2.0".split()
    assert list(lines[1].values()) == told and lines[-1]["seed_3"] == "" and lines[-1]["n"] == "1"


def test_a_damaged_file_is_refused_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    write_spread(path, spread(metrics(), PARENTS), [3, 4, 5])
    text = path.read_text().splitlines()
    for damage in (text[2].replace("1.0", "one"), ",".join(text[2].split(",")[:9] + [""] * 4), "eval/scores"):
        path.write_text("\n".join([*text[:2], damage, *text[3:]]))
        with pytest.raises(PipelineError, match="some\\.csv, line 3: not as `ppo-pipeline seeds` writes it"):
            read_spread(path)


def test_shown_as_tables_and_as_bands_of_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_project(tmp_path / "project", {"r001": "r000"}, samples=2))
    path = Path("metrics/seeds/some.csv")
    write_spread(path, spread(metrics(), PARENTS), [3, 4, 5])
    said = CliRunner().invoke(main, ["seeds", "--show"]).output
    assert "## some: seeds 3, 4, 5" in said and "**Main metrics of r003**" in said
    assert "| r001 | 3 | 2 | 1.5 | 2.5 | 1 | 3 |" in said and "| Held-out score | 3 | 9 | 6 | 9 | 3 | 9 |" in said
    assert CliRunner().invoke(main, ["seeds", "--show", "some"]).output == said
    Path("metrics/seeds/other.csv").write_text("metric,round\neval/scores,r001\n")
    index = contents(Run(Path())).blocks["index"]
    assert [group["label"] for group in index["compared"]["groups"]] == ["this run", "some, 3 seeds"]
    band = index["compared"]["groups"][1]
    assert band["members"] == ["seed 3", "seed 4", "seed 5"]
    assert len(band["bands"]["eval/scores"]["median"]) == 4, "r000, r001, r002, r003"
    charts = {chart["metric"]: chart["main"] for chart in index["compared"]["charts"]}
    assert {metric: charts[metric] for metric in band["bands"]} == {"eval/scores": True, "objective/kl": True}
    assert band["bands"]["eval/scores"]["q3"] == [0.0, 2.5, 9.0, 9.0]
    assert band["bands"]["objective/kl"]["max"] == [None, 0.25, None, None]
    assert any("metrics/seeds/other.csv, line 2: not as" in text for text in index["notes"])


def test_what_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_project(tmp_path / "project", {"r001": "r000"}, samples=2))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))

    def refused(*arguments: str, code: int = 1) -> str:
        result = CliRunner().invoke(main, ["seeds", *arguments])
        assert result.exit_code == code and isinstance(result.exception, SystemExit), result.output
        return result.output

    assert "0 is not in the range x>=1" in refused("0", code=2)
    assert "How many seeds?" in refused(code=2) and "takes no number" in refused("2", "--show", code=2)
    assert "no results of several seeds yet" in refused("--show")
    assert "letters, digits" in refused("2", "--name", "a/b")
    assert "the seeds are --first and those after it" in refused("2", "-S", "seed=3")
    assert "no such setting" in (said := refused("2", "-S", "update.lrr=1")) and "'update.lr'?" in said
    assert "params.yaml: update.lr" in refused("2", "-S", "update.lr=-1")
    assert "not a git repository" in refused("2")


def test_what_git_has_of_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"):
        monkeypatch.setenv(name, "a@b.c")
    git("init", "--quiet")
    with pytest.raises(PipelineError, match="Nothing is committed yet"):
        head()
    Path("code").mkdir()
    Path("code/a.py").write_text("one")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    assert snapshot(head(), ["code"]) == head()
    Path("code/a.py").write_text("two")
    Path("notes").touch()
    now = snapshot(head(), ["code"])
    assert git("show", f"{now}:code/a.py") == "two" and git("show", "HEAD:code/a.py") == "one"
    assert git("stash", "list") == "" and Path("code/a.py").read_text() == "two"
    Path("code/b.py").touch()
    with pytest.raises(PipelineError, match=r"code/b\.py: not in git, .* `git add code/b\.py`"):
        snapshot(head(), ["code"])
    git("add", "code/b.py")
    assert git("show", f"{snapshot(head(), ['code'])}:code/b.py") == ""
    monkeypatch.chdir("code")
    with pytest.raises(PipelineError, match="lies inside of the git repository"):
        head()
