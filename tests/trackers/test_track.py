"""`ppo-pipeline track`: what is sent, and that nothing is sent twice; with each library that is installed here."""

import json
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from report_project import work_on_copy, write_project

from ppo_pipeline.cli.main import main
from ppo_pipeline.cli.track import NAMES
from ppo_pipeline.errors import PipelineError
from ppo_pipeline.report import watch as watch_module
from ppo_pipeline.report.run import Run
from ppo_pipeline.trackers.lines import Line, Points, lines
from ppo_pipeline.trackers.tracker import TRACKERS, Sent, send_new, tracker_class

BRANCHED = {"r001": "r000", "r002": "r001", "r002b": "r001"}
SCORES = {"r000": 0.5, "r001": 1.25, "r002": 2.1, "r002b": -3.0}
FIRST: Points = {("eval/scores", 0): 0.5, ("eval/scores", 1): 1.25, ("eval/scores", 2): 2.1, ("seconds/update", 2): 7.5}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_project(tmp_path_factory.mktemp("made") / "project", BRANCHED, samples=1)
    params = folder / "params.yaml"
    params.write_text(params.read_text().replace("main: true, ", ""))  # the first of each fork goes on
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = work_on_copy(made, tmp_path / "mine", monkeypatch)
    for name, score in SCORES.items():
        write_score(name, score)
    Path("logs/r002").mkdir(parents=True)
    Path("logs/r002/update.json").write_text(json.dumps({"stage": "update", "round": "r002", "seconds": 7.5}))
    return folder


def write_score(name: str, score: float) -> None:
    Path(f"metrics/rounds/{name}.json").write_text(json.dumps({"eval/scores": score, "a flag": True, "a text": "x"}))


def track(*arguments: str, code: int = 0) -> list[str]:
    result = CliRunner().invoke(main, ["track", *arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return [line for line in result.output.splitlines() if line.startswith("mine ") or code]


def sent_twice_and_then_on(target: str, *more: str) -> None:
    """Send a run; again; and once more when a round is new and one has another number."""
    assert [line.partition(" (")[0] for line in track("--to", target, *more)] == [
        "mine r001: 4 numbers sent, 0 were there", "mine r002b: 1 numbers sent, 0 were there",
    ]  # fmt: skip
    assert [line.partition(" (")[0] for line in track("--to", target, *more)] == [
        "mine r001: 0 numbers sent, 4 were there", "mine r002b: 0 numbers sent, 1 were there",
    ]  # fmt: skip
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text + "  r003: {parent: r002}\n")
    write_score("r003", 4.75)
    write_score("r001", 1.5)
    assert [line.partition(" (")[0] for line in track("--to", target, *more)] == [
        "mine r001: 2 numbers sent, 1 of them with another number than before, 3 were there",
        "mine r002b: 0 numbers sent, 1 were there",
    ]  # fmt: skip
    assert track("--to", target, *more)[0].startswith("mine r001: 0 numbers sent, 5 were there")


LATER = FIRST | {("eval/scores", 1): 1.5, ("eval/scores", 3): 4.75}


def test_watch_sends_what_is_new_and_outlives_a_server_that_is_away(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    kind, steps = tracker_class("tensorboard"), iter((2.5, 2.75, 3.0))
    send = kind.send

    def sleep(seconds: float) -> None:
        score = next(steps, None)
        if score is None:
            raise KeyboardInterrupt
        write_score("r002", score)
        monkeypatch.setattr(kind, "send", away if score == 2.75 else send)

    def away(*_: object) -> None:
        raise PipelineError("the server is away")

    monkeypatch.setattr(watch_module.watch, "__defaults__", (sleep,))
    said = [line.partition(" (")[0] for line in track("--to", "tensorboard", "--watch") if " r001: " in line]
    once = "mine r001: 1 numbers sent, 1 of them with another number than before, 3 were there"
    assert said == [
        "mine r001: 4 numbers sent, 0 were there", once, once, "mine r001: 0 numbers sent, 4 were there",
    ]  # fmt: skip
    assert kind("ppo-pipeline", None, lines(Run(Path()), "mine")[0]).sent() == near(FIRST | {("eval/scores", 2): 3.0})


def near(points: Points) -> object:
    return pytest.approx(points, rel=1e-6)


def test_a_line_of_rounds_is_a_run_and_a_branch_another(project: Path) -> None:
    first, branch = lines(Run(Path()), "mine")
    assert first.points == FIRST and branch.points == {("eval/scores", 2): -3.0}
    assert (first.name, branch.name) == ("mine r001", "mine r002b")
    assert first.settings["advantage.kl_coef"] == 0.05 and first.settings["seed"] == 0
    assert not any(name.startswith("rounds") for name in first.settings)
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text + "  r003: {parent: r002}\n")
    assert lines(Run(Path()), "mine")[0].key == first.key, "a run that goes on is the same"
    for before, after in (("\nseed: 0", "\nseed: 1"), ("kl_coef: 0.05", "kl_coef: 0.1")):
        assert before in text
        Path("params.yaml").write_text(text.replace(before, after, 1))
        assert lines(Run(Path()), "mine")[0].key != first.key, "other settings would be mixed with these"


def test_what_messages_leave_out_is_not_sent(project: Path) -> None:
    text = Path("params.yaml").read_text()
    start, end = text.index("  components:"), text.index("\n  correct:")
    entry = """  components:
    - {name: far, type: http, weight: 1.0, url: "https://example.org/secret-path", format: text, columns: [],
       retries: 0, batch_size: 4, timeout_seconds: 5.0, max_answer_bytes: 1000, token_variable: SECRET_NAME}"""
    Path("params.yaml").write_text(
        re.sub(r"\n  correct:.*", "\n  correct: null", text[:start] + entry + text[end:], count=1)
    )
    found = lines(Run(Path()), "mine")[0]
    assert "secret" not in json.dumps(found.settings).lower() and found.settings["reward.components[0].name"] == "far"


class Remembers:
    """A Tracker in memory."""

    place = "memory"

    def __init__(self) -> None:
        self.points: Points = {}
        self.calls = 0

    def sent(self) -> Points:
        return dict(self.points)

    def send(self, points: Points) -> None:
        self.calls += 1
        self.points |= points


def test_only_what_is_new_or_has_changed_is_sent() -> None:
    tracker, points = Remembers(), {("a", 0): 1.0, ("a", 1): 0.1, ("zero", 0): 0.0}
    line = Line("key", "name", {}, points)
    assert send_new(tracker, line) == Sent(3, 0, 0)
    tracker.points[("a", 1)] = 0.10000000149  # as 32 bits keep it
    assert send_new(tracker, line) == Sent(0, 0, 3) and tracker.calls == 1
    later = Line("key", "name", {}, {**points, ("a", 1): 0.2, ("a", 2): 3.0})
    assert send_new(tracker, later) == Sent(2, 1, 2) and tracker.points == later.points


def test_a_library_that_is_missing_is_named_with_its_extra(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(NAMES) == set(TRACKERS)
    for name, (module, _, extra) in TRACKERS.items():
        monkeypatch.delitem(sys.modules, f"ppo_pipeline.trackers.{module}", raising=False)
        for loaded in [each for each in sys.modules if each.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(PipelineError, match=rf"--to {name}: .* is not installed: .*'ppo-pipeline\[{extra}\]'"):
            tracker_class(name)


def test_tensorboard_has_each_number_once(project: Path) -> None:
    pytest.importorskip("tensorboard")
    from ppo_pipeline.trackers.tensorboard_tracker import TensorBoardTracker

    sent_twice_and_then_on("tensorboard")
    line = lines(Run(Path()), "mine")[0]
    assert TensorBoardTracker("ppo-pipeline", None, line).sent() == near(LATER)
    assert len(list(Path("logs/tensorboard/ppo-pipeline", line.key).iterdir())) == 2, (
        "a file is written for nothing new"
    )


def test_mlflow_has_each_number_once_and_the_settings(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    sent_twice_and_then_on("mlflow", "--project", "words")
    client = mlflow.MlflowClient("sqlite:///logs/mlflow.db")
    experiment = client.get_experiment_by_name("words").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    assert set(runs) == {"mine r001", "mine r002b"}
    run = runs["mine r001"]
    assert run.data.params["advantage.kl_coef"] == "0.05" and run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "eval/scores")
    assert sorted((m.step, m.value) for m in history) == [(0, 0.5), (1, 1.25), (1, 1.5), (2, 2.1), (3, 4.75)]
    assert "cannot be used" in track("--to", "mlflow", "--where", "nowhere://x", code=1)[0]


def wandb_records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a W&B file: LevelDB's log format, blocks of 32 KiB, behind a head of 7 bytes."""
    at, parts = 7, b""
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7]) if room >= 7 else (0, 0)
        if kind == 0:  # filled up to the block's end
            at += room
            continue
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def test_wandb_offline_has_each_number_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    sent_twice_and_then_on("wandb")
    rows, ids = [], set()
    for path in sorted(Path("logs/wandb").glob("offline-run-*/*.wandb")):
        for record in map(Record.FromString, wandb_records(path.read_bytes())):
            if record.HasField("run"):
                ids.add(record.run.run_id)
            if record.HasField("history"):
                items = {each.key or each.nested_key[0]: json.loads(each.value_json) for each in record.history.item}
                rows.append((items["round"], items.get("eval/scores")))
    assert sorted(rows) == [(0, 0.5), (1, 1.25), (1, 1.5), (2, -3.0), (2, 2.1), (3, 4.75)]
    assert ids == {line.key for line in lines(Run(Path()), "mine")}


def test_trackio_has_each_number_once(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    project_name = f"words-{tmp_path.name}"  # TRACKIO_DIR is read once a process
    sent_twice_and_then_on("trackio", "--project", project_name)
    line = lines(Run(Path()), "mine")[0]
    rows = SQLiteStorage.get_logs(project_name, line.key)
    found = sorted((row["step"], row["eval/scores"]) for row in rows)
    assert found == [(0, 0.5), (1, 1.25), (1, 1.5), (2, 2.1), (3, 4.75)]
