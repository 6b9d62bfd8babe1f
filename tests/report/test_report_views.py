"""What the report says beside samples and curves: times, conversations, prompts' columns, other runs; and `--watch`."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from report_project import work_on_copy, write_project
from test_report import parsed, report

from ppo_pipeline.cli.main import main
from ppo_pipeline.errors import PipelineError
from ppo_pipeline.project.paths import Paths
from ppo_pipeline.project.stage_run import StageRun
from ppo_pipeline.report import watch as watch_module
from ppo_pipeline.report.compared import compared
from ppo_pipeline.report.conversations import Conversations
from ppo_pipeline.report.metric_titles import MAIN, in_order, main_titles
from ppo_pipeline.report.run import Run
from ppo_pipeline.report.stage_times import stage_times
from ppo_pipeline.report.watch import watch
from ppo_pipeline.tables.prompts import PROMPTS

CHAIN = {"r001": "r000", "r002": "r001"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("made") / "project", CHAIN, samples=4)


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return work_on_copy(made, tmp_path / "project", monkeypatch)


def other(project: Path, name: str, scores: list[float], **changes: str) -> str:
    """Copy the project beside itself with other held-out scores, and other lines of params.yaml; return its path."""
    folder = project.parent / name
    folder.mkdir()
    text = (project / "params.yaml").read_text()
    for before, after in changes.items():
        line = next(line for line in text.splitlines() if line.strip().startswith(f"{before}:"))
        text = text.replace(line, line.replace(line.split(":")[1].split("#")[0], f" {after} "), 1)
    (folder / "params.yaml").write_text(text)
    write_scores(folder, scores)
    return f"../{name}"


def write_scores(folder: Path, scores: list[float]) -> None:
    (folder / "metrics/rounds").mkdir(parents=True, exist_ok=True)
    for k, score in enumerate(scores):
        (folder / f"metrics/rounds/r{k:03d}.json").write_text(json.dumps({"eval/scores": score}))


def test_runs_that_differ_in_the_seed_alone_are_one_group_with_a_band(project: Path) -> None:
    write_scores(project, [0.0, 1.0, 4.0])
    one = other(project, "one", [0.0, 3.0], seed="1")
    shorter = Path(one, "params.yaml")
    shorter.write_text(shorter.read_text().replace("  r002: {parent: r001}\n", ""))
    two = other(project, "two", [0.0, 8.0, 6.0], seed="2")
    fast = other(project, "fast", [0.0, 5.0, 7.0], kl_coef="0.25")
    run = Run(Path())
    found = compared(run, [one, two, fast])
    (own, changed), score = found["groups"], "eval/scores"
    assert own["label"] == "this run and 2 more" and own["members"] == ["seed 0", "seed 1", "seed 2"]
    # After one round 1, 3, 8: the quartiles half-way to the median; after two rounds 4 and 6 alone.
    assert own["bands"][score] == {
        "median": [0, 3, 5], "q1": [0, 2, 4.5], "q3": [0, 5.5, 5.5], "min": [0, 1, 4], "max": [0, 8, 6]
    }  # fmt: skip
    assert changed["label"] == "../fast: advantage.kl_coef 0.05 → 0.25" and changed["bands"][score]["median"] == [
        0,
        5,
        7,
    ]
    assert not run.notes


def test_a_seed_that_is_there_already_is_left_out_and_a_run_alone_is_not_compared(project: Path) -> None:
    again = other(project, "again", [0.0, 9.0, 9.0])
    run = Run(Path())
    assert compared(run, [again]) == {"charts": [], "groups": []}
    assert run.notes == ["--with ../again: left out, a run with these settings and seed 0 is there."]
    with pytest.raises(PipelineError, match=r"--with \.: this is the run itself"):
        compared(run, ["."])
    with pytest.raises(PipelineError, match=r"params\.yaml: no such file"):
        compared(run, [".."])


def test_an_experiment_of_dvc_is_found_by_its_name(project: Path) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=n", "-c", "user.email=e@x"]
        return subprocess.run(["git", *who, *arguments], check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    before = Path("params.yaml").read_text()
    Path("params.yaml").write_text(before.replace("\nseed: 0", "\nseed: 7"))
    write_scores(project, [0.0, 2.0, 3.0])
    git("add", "params.yaml", "metrics/rounds")
    git("commit", "-qm", "an experiment")
    git("update-ref", "refs/exps/ab/cdef/slow", "HEAD")
    Path("params.yaml").write_text(before)
    write_scores(project, [0.0, 4.0, 5.0])
    group = compared(Run(Path()), ["slow"])["groups"][0]
    assert group["members"] == ["seed 0", "seed 7"] and group["bands"]["eval/scores"]["min"] == [0, 2, 3]
    with pytest.raises(PipelineError, match="slowly: neither a folder, nor a DVC experiment"):
        compared(Run(Path()), ["slowly"])


def write_record(path: str, stage: str, name: str | None, **numbers: Any) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps({"stage": stage, "round": name, **numbers}))


def test_times_are_those_of_the_records(project: Path) -> None:
    write_record("logs/r002/update.json", "update", "r002", seconds=4.5, tokens=80, tokens_per_second=20.0)
    write_record("logs/r002/rollout.json", "rollout", "r002", seconds=2, peak_memory_gb=1.5)
    write_record("logs/all/base.json", "base", None, seconds=9.0)
    write_record("logs/r009/update.json", "update", "r009", seconds=1.0)  # a round that is there no more
    write_record("logs/seeds/x.json", "something else", None, seconds=1.0)
    Path("logs/r001").mkdir()
    Path("logs/r001/reward.json").write_text("{")
    run = Run(Path())
    found = stage_times(run)
    assert [(r["stage"], r["round"], r["seconds"], r["tokens"], r["peak_memory_gb"]) for r in found] == [
        ("base", None, 9.0, None, None), ("rollout", "r002", 2, None, 1.5), ("update", "r002", 4.5, 80, None)
    ]  # fmt: skip
    assert len(run.notes) == 1 and run.notes[0].startswith("logs/r001/reward.json: damaged")


def test_a_stage_records_its_tokens() -> None:
    stage = StageRun("update", "r001", None, Paths(), Path("unused"), {})
    with stage.progress(2, "samples") as counter:
        counter.advance(1, tokens=30)
        counter.advance(1, tokens=12)
    assert stage.record["tokens"] == 42 and stage.record["tokens_per_second"] > 0


def test_a_prompt_is_told_in_turns_as_far_as_the_model_saw_them(project: Path) -> None:
    turns = [("system", "Be brief."), ("user", "What is 1 + 2?"), ("assistant", "3"), ("user", " And 2 + 2? ")]
    messages = [[{"role": role, "content": said} for role, said in turns]] * 3
    ids = ["p0", "p1", "p2"]
    PROMPTS.write(
        pa.table({
            "prompt_id": ids, "messages": pa.array(messages), "split": ["train"] * 3, "topic": ["sums", "sums", None],
            "difficulty": [1, 2, 1], "expected": [["4", "four"], ["5"], ["6"]], "empty": pa.nulls(3, pa.string()),
        }),
        Path("data/prompts.parquet"),
    )  # fmt: skip
    whole = "<s>Be brief.<u>What is 1 + 2?<a>3<u>And 2 + 2?<a>"
    seen = [whole, whole.replace("Be brief.", "Be long."), "quite other"]
    conversations = Conversations(Run(Path()))
    assert conversations.turns(pa.table({"prompt_id": [*ids, "gone"], "prompt_text": [*seen, "gone"]})) == [
        [*turns[:3], ("user", "And 2 + 2?")], [("user", "And 2 + 2?")], [("", "quite other")], [("", "gone")],
    ]  # fmt: skip
    assert conversations.columns(["p0", "p1"]) == [
        {"name": "topic", "numeric": False, "few": True, "values": {"p0": "sums", "p1": "sums"}},
        {"name": "difficulty", "numeric": True, "few": True, "values": {"p0": 1, "p1": 2}},
        {"name": "expected", "numeric": False, "few": True, "values": {"p0": '["4", "four"]', "p1": '["5"]'}},
    ]


def test_components_stand_in_front_between_scores_and_the_rest(project: Path) -> None:
    names = [
        "lr",
        "val/response_length",
        "reward/near",
        "eval/near",
        "reward/answer",
        "objective/scores",
        "eval/scores",
    ]
    charts = in_order([*names, "eval/scores_se"], main_titles(Run(Path()).params))
    assert [(c["metric"], c["title"], c["unit"], c["main"]) for c in charts] == [
        ("eval/scores", "Held-out score", "reward", True), ("objective/scores", "Training score", "reward", True),
        ("reward/answer", "answer, weight 1", "reward", True), ("reward/near", "near, weight 1", "reward", True),
        ("eval/near", "Held-out near", "reward", True), ("val/response_length", "Response length", "tokens", True),
        ("lr", "lr", "", False),
    ]  # fmt: skip
    assert (
        str(MAIN["objective/kl"]) == "KL to the base (nats)" and str(MAIN["eval/correct"]) == "Held-out right answers"
    )


def test_watching_answers_when_a_stage_has_ended_and_at_no_other_time(project: Path) -> None:
    answers: list[int] = []
    steps = iter(range(6))

    def sleep(seconds: float) -> None:
        step = next(steps)  # after the last one StopIteration ends the watch
        assert seconds >= watch_module.LOOKS
        if step == 1:
            Path("metrics/stages/r002").mkdir(parents=True)
            Path("metrics/stages/r002/reward.json").write_text("{}")
        if step == 2:
            Path("data/rounds/r002/later.partial").write_text("not a stage's end")
        if step == 4:
            os.utime("params.yaml", (1, 1))

    with pytest.raises(StopIteration):
        watch([Path(), Path("no such folder")], lambda: answers.append(1), sleep)
    assert len(answers) == 3, "at first, after the stage, after the settings"


def test_watch_writes_a_page_that_reloads_and_in_the_end_one_that_stays(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[float] = []

    def sleep(seconds: float) -> None:
        texts.append(parsed().blocks()["index"]["watched"])
        if len(texts) == 1:
            Path("params.yaml").write_text("seed: [")  # in the middle of an edit
        elif len(texts) == 2:
            Path("params.yaml").write_text(before)
        else:
            raise KeyboardInterrupt

    before = Path("params.yaml").read_text()
    monkeypatch.setattr(watch_module.watch, "__defaults__", (sleep,))
    result = CliRunner().invoke(main, ["report", "--watch"])
    assert result.exit_code == 0 and "params.yaml" in result.output, result.output
    assert texts == [watch_module.RELOAD] * 3 and parsed().blocks()["index"]["watched"] == 0
    assert "Watched no more" in result.output and result.output.count("report.html: ") == 3


def test_the_page_has_it_all(project: Path) -> None:
    write_record("logs/r002/rollout.json", "rollout", "r002", seconds=2)
    report("--with", other(project, "one", [1.0, 2.0], seed="1"))
    blocks = parsed().blocks()
    index = blocks["index"]
    assert [group["members"] for group in index["compared"]["groups"]] == [["seed 0", "seed 1"]]
    assert index["times"][0]["seconds"] == 2 and index["watched"] == 0
    role, text = index["samples"]["turns"][0][0]
    assert (role, index["texts"][text]) == ("user", "What is the capital of France?")
    role, text = blocks["heldout"]["rounds"]["r000"]["turns"][0][0]
    assert (role, blocks["heldout"]["texts"][text]) == ("user", "What is the capital of France?")
