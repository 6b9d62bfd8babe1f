"""The line for the whole run and the curve so far: stages still to run by dvc.lock, and the time that they take."""

import csv
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from dvc_project import REPOSITORY
from ruamel.yaml import YAML
from stage_runs import ROUND

from ppo_pipeline.cli.main import main
from ppo_pipeline.project.learning_curve import HELDOUT, TRAINING
from ppo_pipeline.project.plan.left import seconds_left, stages_left
from ppo_pipeline.project.running import line, tell_run
from ppo_pipeline.settings.params import Params, load_params

PARENTS = {"r001": "r000", "r002": "r001", "r003": "r002", "side": "r001"}
ENTRIES = YAML(typ="safe").load(REPOSITORY / "dvc.yaml")["stages"]
ON_DISK = ("data/code/", "data/settings/", "data/models/")
FROM_ADVANTAGE = ["advantage", "update", "evaluate"]


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def of(name: str, *stages: str) -> set[str]:
    return {f"{stage}@{name}" for stage in stages or ROUND}


class Lock:
    """A dvc.lock in which everything fits, of dvc.yaml's own paths; `edit` gives a stage's entry another hash."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[str, dict[str, str]]] = {"init": self.entry(ENTRIES["init"], {})}
        for name, parent in PARENTS.items():
            for stage in ROUND:
                body = ENTRIES[stage]["do"]
                self.entries[f"{stage}@{name}"] = self.entry(body, {"key": name, "item.parent": parent})

    def entry(self, body: Any, values: dict[str, str]) -> dict[str, dict[str, str]]:
        values = {**values, "policy.start": "data/base"}
        found: dict[str, dict[str, str]] = {}
        for kind in ("deps", "outs"):
            paths = [re.sub(r"\$\{([\w.]+)\}", lambda match: values[match[1]], path) for path in body[kind]]
            found[kind] = {path: md5(path) for path in paths}
            for path in paths:
                if path.startswith(ON_DISK):
                    Path(path).parent.mkdir(parents=True, exist_ok=True)
                    Path(path).write_text(path)
        return found

    def edit(self, stage: str, kind: str, path: str) -> None:
        assert path in self.entries[stage][kind]
        self.entries[stage][kind][path] = md5("another")

    def write(self) -> None:
        text = "schema: '2.0'\nstages:\n"
        for stage, entry in self.entries.items():
            text += f"  {stage}:\n    cmd: python -m stages\n"
            for kind, paths in entry.items():
                text += f"    {kind}:\n"
                for path, digest in sorted(paths.items()):
                    folder = "      nfiles: 2\n" if path.endswith("policy") else ""
                    text += f"    - path: {path}\n      hash: md5\n      md5: {digest}\n      size: 9\n{folder}"
                text += "    params:\n      params.yaml:\n        seed: 0\n" if kind == "deps" else ""
        Path("dvc.lock").write_text(text)


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lock:
    monkeypatch.chdir(tmp_path)
    yaml = YAML()
    params = yaml.load(REPOSITORY / "params.yaml")
    params["rounds"] = {name: {"parent": parent} for name, parent in PARENTS.items()}
    yaml.dump(params, Path("params.yaml"))
    made = Lock()
    made.write()
    return made


@pytest.fixture
def params(lock: Lock) -> Params:
    return load_params()


def test_nothing_is_left_where_all_fits(params: Params) -> None:
    assert stages_left(params, "r003") == []


def test_another_policy_leaves_all_rounds_behind_it(lock: Lock, params: Params) -> None:
    lock.edit("update@r002", "outs", "data/rounds/r002/policy")
    lock.write()
    assert set(stages_left(params, "r002")) == of("r003"), "not its sibling"


def test_the_report_names_the_rounds_that_are_still_of_an_earlier_run(lock: Lock, params: Params) -> None:
    for name in ("r001", "r002", "r003"):
        Path("metrics/stages", name).mkdir(parents=True)
        Path("metrics/stages", name, "evaluate.json").write_text("{}")
    said = CliRunner().invoke(main, ["report"]).output
    assert "report.html: 5 rounds" in said and "earlier run" not in said
    lock.edit("update@r001", "outs", "data/rounds/r001/policy")
    lock.edit("evaluate@r001", "deps", "data/rounds/r001/policy")
    lock.write()
    said = CliRunner().invoke(main, ["report"]).output
    assert "Still of an earlier run: r002, r003; `dvc repro` makes them anew." in said, "side has no metrics yet"


def test_settings_leave_the_stages_that_read_them_and_what_follows(params: Params) -> None:
    Path("data/settings/r002/evaluate.json").write_text("{}")
    assert stages_left(params, "r001") == ["evaluate@r002"]
    Path("data/settings/r002/advantage.json").write_text("{}")
    assert set(stages_left(params, "r001")) == of("r002", *FROM_ADVANTAGE) | of("r003")


def test_an_edited_reward_function_leaves_the_other_rounds_rewards(lock: Lock, params: Params) -> None:
    lock.edit("reward@r001", "deps", "reward_functions")
    lock.write()
    again = ("reward", *FROM_ADVANTAGE)
    assert set(stages_left(params, "r001")) == of("r002", *again) | of("side", *again) | of("r003")


def test_rounds_that_never_ran_and_those_behind_them_are_left(lock: Lock, params: Params) -> None:
    del lock.entries["update@r002"]
    lock.write()
    assert set(stages_left(params, "r001")) == of("r002", "update", "evaluate") | of("r003")
    Path("dvc.lock").unlink()
    assert set(stages_left(params, "r001")) == of("r002") | of("r003") | of("side")


def records(name: str, pause: float, stages: tuple[str, ...] = ROUND, seconds: float = 10.0) -> None:
    """Write the records of stages that began `pause` seconds after the one before had ended."""
    Path("logs", name).mkdir(parents=True)
    for place, stage in enumerate(stages):
        path = Path("logs", name, f"{stage}.json")
        path.write_text(json.dumps({"process_seconds": seconds}))
        ended = 1e9 + place * (seconds + pause)
        os.utime(path, (ended, ended))


def test_the_time_left_is_that_of_this_rounds_stages_with_what_dvc_does_between_them(params: Params) -> None:
    left = ["evaluate@r002", "update@r003", "evaluate@r003"]
    assert seconds_left(params, "r001", left) is None
    records("r001", pause=2.0)
    assert seconds_left(params, "r001", left) == pytest.approx(3 * 10 * (6 * 10 + 5 * 2) / (6 * 10))
    records("r002", pause=3600.0)  # a pause is none of DVC's work
    assert seconds_left(params, "r002", left) == pytest.approx(30)
    records("side", pause=0.0, stages=("evaluate",), seconds=4.0)  # the others were restored: as the nearest round's
    assert seconds_left(params, "side", left) == pytest.approx(2 * 4 + 10)


def test_the_line_says_over_what_the_gain_is(params: Params) -> None:
    scores = {"r000": -0.05, "r001": 0.1, "r002": 0.25}
    metrics: dict[str, dict[str, Any]] = {name: {"eval/scores": score} for name, score in scores.items()}
    start = "round 2 of 4, held-out +0.25 (+0.15 over r001, +0.30 over untrained), "
    assert line(params, metrics, "r002") == start + "none left"
    assert line(params, metrics, "r001").startswith("round 1 of 4, held-out +0.10 (+0.15 over untrained), ")
    Path("dvc.lock").unlink()
    assert line(params, metrics, "r002") == start + "3 to come"
    records("r002", pause=0.0)
    assert line(params, metrics, "r002") == start + "about 3.0 min left"
    assert line(params, {"r002": {}}, "r002") == "round 2 of 4, about 3.0 min left"


def test_the_curve_so_far_has_no_round_that_is_still_of_an_earlier_run(
    params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    for place, name in enumerate(["r000", *PARENTS]):
        Path("metrics/stages", name).mkdir(parents=True)
        numbers = dict.fromkeys([*HELDOUT, *TRAINING], float(place))
        Path("metrics/stages", name, "evaluate.json").write_text(json.dumps(numbers))
    tell_run("r000")
    assert capsys.readouterr().out == ""
    tell_run("r002")
    assert capsys.readouterr().out.startswith("round 2 of 4, held-out +2.00 (+1.00 over r001, +2.00 over untrained)")
    curves = {path.stem: [*csv.DictReader(path.open())] for path in Path("logs/curve").iterdir()}
    assert {name: [row["round"] for row in rows] for name, rows in curves.items()} == {
        "heldout": ["r000", "r001", "r002"], "training": ["r001", "r002"], "critic": ["r001", "r002"],
    }  # fmt: skip
    assert [row["heldout_score"] for row in curves["heldout"]] == ["0.0", "1.0", "2.0"]
    Path("params.yaml").write_text("seed: [")  # while it is being edited
    tell_run("r002")
    assert "not up to date: params.yaml: not valid YAML" in capsys.readouterr().err
