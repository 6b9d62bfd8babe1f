"""TensorBoard's files: what is in them while stages run, and that they change nothing."""

import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from stage_runs import Stages

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.observe import live
from stages.__main__ import main


def scalars(folder: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Return what TensorBoard reads: {run: {tag: [(step, value), ...]}}."""
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.util.tensor_util import make_ndarray

    reader = EventMultiplexer(tensor_size_guidance={"scalars": 0}).AddRunsFromDirectory(str(folder))
    reader.Reload()
    return {
        run: {
            # Sorted: files of the same second are read in the order of their names, and only here rounds are so quick.
            tag: sorted((event.step, make_ndarray(event.tensor_proto).item()) for event in reader.Tensors(run, tag))
            for tag in tags["tensors"]
        }
        for run, tags in reader.Runs().items()
    }


def with_a_branch(params: Any) -> None:
    params["rounds"]["side"] = {"parent": "r001"}


def test_tensorboard_reads_steps_that_go_on_over_rounds_and_each_round_s_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    stages = Stages(tmp_path, with_a_branch)
    stages.run("init")
    monkeypatch.setenv("PPO_PIPELINE_LIVE", str(tmp_path / "live"))
    monkeypatch.setattr(live, "SECONDS", 0.0)
    stages.run("baseline")
    for name in ("r001", "r002", "side"):
        stages.round(name)
    runs = scalars(tmp_path / "live")
    assert set(runs) == {"r001", "side"}
    line, side = runs["r001"], runs["side"]
    steps = [step for step, _ in line["step/policy/approxkl"]]
    assert steps == [1, 2, 3, 4]  # two epochs of a minibatch a round
    assert [step for step, _ in side["step/policy/approxkl"]] == [3, 4]
    assert {"step/loss/policy", "step/loss/value", "step/policy/grad_norm", "step/val/ratio", "step/lr"} <= set(line)
    for name, depth in (("r001", 1), ("r002", 2)):
        metrics = stages.metrics(name)
        mean = sum(value for step, value in line["step/loss/policy"] if (step + 1) // 2 == depth) / 2
        assert mean == pytest.approx(metrics["loss/policy"], rel=1e-4, abs=1e-7)
        for metric, number in metrics.items():
            assert dict(line[f"round/{metric}"])[depth] == pytest.approx(number, rel=1e-6), metric
    assert [step for step, _ in line["round/eval/scores"]] == [0, 1, 2]
    xs = [x for x, _ in line["rollout/finished"]]
    assert xs == sorted(xs) and 0 <= xs[0] < 1000 and xs[-1] == 2000


def test_a_round_that_is_watched_writes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    written = []
    for watched in (False, True):
        stages = Stages(tmp_path / str(watched), lambda params: None)
        stages.run("init")
        if watched:
            monkeypatch.setenv("PPO_PIPELINE_LIVE", str(tmp_path / "live"))
        stages.round("r001")
        written.append([p.read_bytes() for p in sorted(stages.path("r001").rglob("*")) if p.is_file()])
    assert written[0] == written[1]
    assert len(written[0]) > 8


def test_without_tensorboard_the_first_stage_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    with pytest.raises(PipelineError, match=r"tensorboard is not installed: pip install .*\[live\]"):
        live.open_writer("live", "r001")
    monkeypatch.setenv("PPO_PIPELINE_LIVE", "live")
    monkeypatch.setattr("stages.settings.run", lambda: pytest.fail("the stage has begun"))
    result = CliRunner().invoke(main, ["settings"])
    assert result.exit_code == 1 and "tensorboard is not installed" in result.output
