"""What `ppo-pipeline status` says without DVC: files that would be written, the tree of rounds, times."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ppo_pipeline.cli.main import main
from ppo_pipeline.cli.status import about, in_tree, seconds
from ppo_pipeline.project.plan.durations import Durations
from ppo_pipeline.project.plan.would_be import code_files, model_files, settings_files, what_changed
from ppo_pipeline.settings.params import load_params
from stages import code, settings

REPOSITORY = Path(__file__).resolve().parents[2]


def write_params(rounds: str) -> None:
    head = (REPOSITORY / "params.yaml").read_text(encoding="utf-8").split("\nrounds:")[0]
    Path("params.yaml").write_text(f"{head}\nrounds: {rounds}\n", encoding="utf-8")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_params("{r001: {parent: r000}, r002: {parent: r001, seed: 7}, r003: {parent: r002}}")


def files_of(folder: Path) -> dict[str, str]:
    return {path.as_posix(): path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.is_file()}


def test_files_of_settings_and_code_are_those_that_the_stages_write() -> None:
    settings.run()
    assert settings_files(load_params()) == files_of(Path("data/settings"))
    assert model_files(load_params()) == files_of(Path("data/models"))
    code.run()
    assert code_files() == files_of(Path("data/code"))


def test_what_changed_is_told_setting_by_setting() -> None:
    path = "data/settings/r001/advantage.json"
    before: dict[str, Any] = {"depth": 1, "advantage": {"gamma": 1.0, "kl_target": None, "name": "x"}}
    now = {"depth": 2, "advantage": {"gamma": 0.5, "kl_target": 6.0, "name": "y"}, "more": [{"a": 1}]}
    assert what_changed(path, json.dumps(before), json.dumps(now)) == [
        "advantage.gamma 1.0 -> 0.5", "advantage.kl_target null -> 6.0", "advantage.name x -> y", "more[0].a - -> 1",
    ]  # fmt: skip
    assert what_changed(path, None, json.dumps(now)) == ["its settings"]
    assert what_changed("data/code/update.json", '{"a.py": "1", "b.py": "2"}', '{"a.py": "1", "b.py": "3"}') == [
        "b.py edited"
    ]


@pytest.mark.parametrize(
    ("rounds", "wanted"),
    [
        ({"a": "r000", "b": "a", "c": "b"}, "r000 a b c"),
        ({"a": "r000", "b": "a", "c": "b", "b2": "a"}, "r000 a .b2 b c"),
        ({"a": "r000", "b": "a", "b2": "a", "c2": "b2", "d2": "c2"}, "r000 a .b2 .c2 .d2 b"),
        ({"a": "r000", "b": "a", "x": "r000", "y": "x", "y2": "x", "z": "y"}, "r000 .x ..y2 .y .z a b"),
        ({"m": "r000", "n": "m", "o": "n", "x": "m", "x2": "m", "y": "x", "z": "x"}, "r000 m .x2 .x ..z .y n o"),
    ],
)
def test_the_tree_has_each_round_behind_its_parent(rounds: dict[str, str], wanted: str) -> None:
    write_params("{" + ", ".join(f"{name}: {{parent: {parent}}}" for name, parent in rounds.items()) + "}")
    drawn = [("." * branch) + name for name, branch in in_tree(load_params())]
    assert " ".join(drawn) == wanted


def record(folder: str, stage: str, text: str) -> None:
    path = Path("logs", folder, f"{stage}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_times_are_of_the_round_itself_or_of_the_nearest() -> None:
    record("r001", "update", '{"process_seconds": 10}')
    record("r003", "update", '{"process_seconds": 30.5}')
    record("r000", "evaluate", '{"process_seconds": 4}')
    record("all", "base", '{"process_seconds": 5}')
    record("r002", "rollout", '{"process_sec')  # killed while it was written
    durations = Durations(load_params())
    found = [durations.of(stage) for stage in ("update@r001", "update@r002", "update@r003", "evaluate@r003")]
    assert found == [10.0, 10.0, 30.5, 4.0]
    assert [durations.of(stage) for stage in ("baseline", "base", "rollout@r001", "init")] == [4.0, 5.0, None, None]


def test_seconds_are_added_up_and_read_well() -> None:
    entries = [("runs", 10.0), ("follows", 100.25), ("runs", None), ("cached", 0.0)]
    assert seconds([{"kind": kind, "seconds": number} for kind, number in entries]) == (10.0, 110.2)
    assert [about(number) for number in (0.4, 89, 600, 36_000)] == ["0 s", "89 s", "10 min", "10.0 h"]


def test_status_without_dvc_shows_the_rounds_and_says_what_is_amiss() -> None:
    result = CliRunner().invoke(main, ["status", "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert [entry["round"] for entry in told["rounds"]] == ["r000", "r001", "r002", "r003"]
    assert told["rounds"][2]["settings"] == "seed=7" and told["rounds"][2]["score"] is None
    assert told["reruns"] is None and "run from the project's top folder" in told["trouble"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dvc", "repro"], "`dvc status` fails: a run of DVC is at work here, `dvc repro` (process {}); ask again"),
        (
            ["another"],
            "`dvc status` fails: .dvc/tmp/rwlock names process {}, which is no run of DVC by now; docs",
        ),
    ],
)
def test_status_says_which_run_holds_the_files_and_never_to_remove_its_lock(words: list[str], said: str) -> None:
    """Against the real DVC: a process that lives stands in its lock file as the writer of what a stage reads."""
    from dvc.repo import Repo

    Repo.init(no_scm=True).close()
    Path("dvc.yaml").write_text("stages: {one: {cmd: echo, deps: [params.yaml]}}\n", encoding="utf-8")
    sleep = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen([*sleep, *words], stdin=subprocess.PIPE) as process:
        held = {str(Path("params.yaml").resolve()): {"pid": process.pid, "cmd": "/some/where/dvc repro"}}
        Path(".dvc/tmp/rwlock").write_text(json.dumps({"write": held}), encoding="utf-8")
        trouble = json.loads(CliRunner().invoke(main, ["status", "--json"]).stdout)["trouble"]
        process.communicate()
    assert trouble.startswith(said.format(process.pid)) and "remove" not in trouble
