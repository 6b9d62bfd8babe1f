"""Python reward functions: TRL's signature, the example, and what goes wrong."""

import sys
from pathlib import Path

import pytest

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.rewards.function import python_rewards
from ppo_pipeline.rewards.samples import Samples
from ppo_pipeline.rewards.scoring import score_samples
from ppo_pipeline.sections import PythonComponent, Reward

FUNCTIONS = """
def length(completions, **kwargs):  # as in TRL's documentation: only what it needs, the rest in kwargs
    return [float(len(completion)) for completion in completions]

def correct(prompts, completions, expected, **kwargs):
    return [1.0 if c == e else 0.0 for c, e in zip(completions, expected)]

def conversational(prompts, completions, **kwargs):
    return [len(p) * 10.0 + len(c[0]["content"]) for p, c in zip(prompts, completions) if c[0]["role"] == "assistant"]

def fails(completions, **kwargs):
    return [1 / len(c) for c in completions]

def short(completions, **kwargs):
    return [1.0]

def nothing(completions, **kwargs):
    return [None for _ in completions]

def number(completions, **kwargs):
    return 3.0

VALUE = 1
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rewards.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)


def samples(*responses: str) -> Samples:
    count = len(responses)
    talk = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    return Samples(
        [f"s{i}" for i in range(count)], [talk] * count, ["q?"] * count, list(responses), {"expected": ["a"] * count}
    )


def component(function: str, **changes: object) -> PythonComponent:
    return PythonComponent(
        **{"type": "python", "name": "mine", "weight": 1.0, "function": function, "format": "text", **changes}
    )


def test_functions_written_for_trl_work_unchanged() -> None:
    given = samples("a", "abc")
    assert python_rewards(component("my_rewards:length"), given) == [1.0, 3.0]
    assert python_rewards(component("my_rewards:correct"), given) == [1.0, 0.0]
    assert python_rewards(component("my_rewards:conversational", format="messages"), given) == [21.0, 23.0]


def test_the_committed_example() -> None:
    assert python_rewards(component("reward_functions.brevity:reward"), samples("", "x" * 25, "x" * 999)) == [
        1,
        0.75,
        0,
    ]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("my_rewards:fails", r"my_rewards:fails raised ZeroDivisionError: .* \(sample 's1'\)"),
        ("my_rewards:short", r"1 rewards for 3 samples"),
        ("my_rewards:nothing", r"sample 's0': None is not a finite number"),
        ("my_rewards:number", r"returned float, expected a list"),
        ("my_rewards:absent", r"the module 'my_rewards' has no 'absent'"),
        ("no_such_module:f", r"No module named 'no_such_module'"),
        ("my_rewards:VALUE", r"is not a function"),
    ],
)
def test_what_goes_wrong_is_named(function: str, message: str) -> None:
    with pytest.raises(PipelineError, match=rf"reward 'mine': .*{message}"):
        score_samples(Reward(components=[component(function)]), samples("a", "", "b"))
