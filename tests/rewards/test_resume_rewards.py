"""Rewards that were computed or paid for are not asked for again after an error."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
from reward_server import component as http_component
from reward_server import good, samples

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.resume.scratch import Scratch
from ppo_pipeline.resume.snapshots import INTERVAL
from ppo_pipeline.rewards.scoring import score_samples
from ppo_pipeline.rewards.types.python import PythonComponent
from ppo_pipeline.settings.reward_sections import Reward


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def python_component(module: str) -> PythonComponent:
    return PythonComponent(
        type="python", name="slow", weight=1.0, function=f"{module}:reward", format="text", columns={}, none_as=None
    )


def scratch() -> Scratch:
    return Scratch("reward", "r001", ())


def test_a_service_that_fails_is_not_asked_again_for_what_it_answered(serve: Any) -> None:
    broken = True

    def answer(sent: Any, number: int, *_: Any) -> Any:
        if broken and "s3" in sent["sample_ids"]:
            return 400, b"", {}
        return good([int(i[1:]) + 0.5 for i in sent["sample_ids"]])

    server = serve(answer)
    settings = Reward(correct=None, components=[http_component(server.url, batch_size=2, retries=0)])
    with pytest.raises(PipelineError, match="status 400"):
        score_samples(settings, samples(5), scratch())
    assert len(server.requests) == 2
    broken = False
    scores = score_samples(settings, samples(5), scratch())
    assert scores["score"] == [0.5, 1.5, 2.5, 3.5, 4.5]
    asked = [r["sample_ids"] for r in server.requests[2:]]
    assert asked == [["s2", "s3"], ["s4"]]


def test_other_settings_of_a_component_ask_again_and_those_of_another_do_not(serve: Any) -> None:
    server = serve(lambda sent, number, *_: good([1.0] * len(sent["sample_ids"])) if number < 3 else (400, b"", {}))
    judge = http_component(server.url, batch_size=2, retries=0)
    with pytest.raises(PipelineError):
        score_samples(Reward(correct=None, components=[judge]), samples(5), scratch())
    other = judge.model_copy(update={"timeout_seconds": 9.0})
    for component, requests in ((judge, 1), (other, 1), (judge, 1)):
        before = len(server.requests)
        with pytest.raises(PipelineError):
            score_samples(Reward(correct=None, components=[component]), samples(5), scratch())
        assert len(server.requests) - before == requests
        first = server.requests[before]["sample_ids"][0]
        assert first == ("s0" if component is other else "s4")


def test_a_function_is_called_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INTERVAL, "0")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "reward_functions").mkdir()
    (tmp_path / "reward_functions/__init__.py").touch()
    module = tmp_path / "reward_functions/slow_one.py"
    calls = tmp_path / "calls"
    text = f"def reward(completions, **_):\n    open({str(calls)!r}, 'a').write('x')\n    return [VALUE] * 3\n"

    def score(value: float) -> list[float]:
        module.write_text(text.replace("VALUE", str(value)))
        for name in ("reward_functions", "reward_functions.slow_one"):  # and put back at the end
            monkeypatch.setitem(sys.modules, name, None)
            monkeypatch.delitem(sys.modules, name)
        importlib.invalidate_caches()
        settings = Reward(correct=None, components=[python_component("reward_functions.slow_one")])
        return score_samples(settings, samples(3), scratch())["score"]

    assert score(0.25) == score(0.25) == [0.25] * 3
    assert calls.read_text() == "x"
    assert score(0.625) == [0.625] * 3  # of another length: an edit within a second could be hidden by a stale .pyc
    assert calls.read_text() == "xx"
