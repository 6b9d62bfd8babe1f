"""Python reward functions: TRL's signature, the example, and what goes wrong."""

import sys
from pathlib import Path

import pytest

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.rewards.samples import Samples
from ppo_pipeline.rewards.scoring import score_samples
from ppo_pipeline.rewards.types.python import PythonComponent
from ppo_pipeline.settings.reward_sections import Reward

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

def tokens(completion_ids, **kwargs):
    return [len(ids) for ids in completion_ids]

async def waits(completions, **kwargs):
    import asyncio
    await asyncio.sleep(0)
    return [2.0 for _ in completions]

def array(completions, **kwargs):
    import numpy
    return numpy.array([len(c) for c in completions], dtype=numpy.float32) / 2

def true(completions, **kwargs):
    return [c == "a" for c in completions]

def sometimes(completions, **kwargs):
    return [None if c == "" else 1.5 for c in completions]

def strict(prompts, completions, completion_ids, expected):
    return [1.0 for _ in prompts]

VALUE = 1
"""
BROKEN = {"broken_syntax": "def f(:\n", "broken_import": "raise RuntimeError('no licence')\n"}


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"my_rewards": FUNCTIONS, **BROKEN}.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)


def samples(*responses: str) -> Samples:
    count = len(responses)
    talk = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    return Samples(
        sample_ids=[f"s{i}" for i in range(count)],
        messages=[talk] * count,
        prompt_texts=["q?"] * count,
        responses=list(responses),
        response_ids=[[7] * len(response) + [0] for response in responses],
        columns={"expected": ["a"] * count, "prompt": ["raw"] * count, "prompts": ["raw"] * count},
    )


def component(function: str, **changes: object) -> PythonComponent:
    values = {
        "type": "python",
        "name": "mine",
        "weight": 1.0,
        "function": function,
        "format": "text",
        "columns": {},
        "none_as": None,
    }
    return PythonComponent(**{**values, **changes})


def test_functions_written_for_trl_work_unchanged() -> None:
    given = samples("a", "abc")
    assert component("my_rewards:length").score(given) == [1.0, 3.0]
    assert component("my_rewards:correct").score(given) == [1.0, 0.0]
    assert component("my_rewards:conversational", format="messages").score(given) == [21.0, 23.0]


def test_token_ids_coroutines_arrays_and_truth_values_as_trl_takes_them() -> None:
    given = samples("a", "abc")
    assert component("my_rewards:tokens").score(given) == [2, 4]
    assert component("my_rewards:waits").score(given) == [2.0, 2.0]
    assert score_samples(Reward(correct=None, components=[component("my_rewards:array")]), given)["mine"] == [0.5, 1.5]
    assert component("my_rewards:true").score(given) == [1.0, 0.0]


def test_columns_named_like_trl_s_own_arguments_are_not_passed() -> None:
    assert component("my_rewards:strict").score(samples("a")) == [1.0]


def test_none_becomes_a_number_only_where_the_settings_say_so() -> None:
    given = samples("a", "")
    assert component("my_rewards:sometimes", none_as=0.0).score(given) == [1.5, 0.0]
    with pytest.raises(PipelineError, match="sample 's1': None is not a finite number"):
        score_samples(Reward(correct=None, components=[component("my_rewards:sometimes")]), given)


def test_the_committed_example() -> None:
    assert component("reward_functions.brevity:reward").score(samples("", "x" * 25, "x" * 999)) == [
        1,
        0.75,
        0,
    ]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            "my_rewards:fails",
            r"fails raised ZeroDivisionError: .* \(.*my_rewards.py, line 12, at sample 's1', response ''\)",
        ),
        ("my_rewards:short", r"1 rewards for 3 samples"),
        ("my_rewards:nothing", r"sample 's0': None is not a finite number"),
        ("my_rewards:number", r"returned float, expected a list"),
        ("my_rewards:absent", r"the module 'my_rewards' has no 'absent'"),
        ("no_such_module:f", r"No module named 'no_such_module'"),
        ("broken_syntax:f", r"importing 'broken_syntax' raised SyntaxError"),
        ("broken_import:f", r"importing 'broken_import' raised RuntimeError: no licence"),
        ("my_rewards:VALUE", r"is not a function"),
    ],
)
def test_what_goes_wrong_is_named(function: str, message: str) -> None:
    with pytest.raises(PipelineError, match=rf"reward 'mine': .*{message}"):
        score_samples(Reward(correct=None, components=[component(function)]), samples("a", "", "b"))


def test_a_column_is_given_by_the_name_that_the_function_asks_for(tmp_path: Path) -> None:
    """TRL's own functions want `solution`, whatever the prompts call it; their other columns are there as ever."""
    text = "def accuracy(completions, solution, expected, log_extra=None, **kwargs):\n"
    text += "    rows = zip(completions, solution, expected)\n"
    text += "    return [float(s in c[0]['content']) + 10 * (e == 'a') for c, s, e in rows]\n"
    (tmp_path / "trl_like.py").write_text(text)
    given = samples("4", "5")
    given.columns["answer"] = ["4", "4"]
    mapped = component("trl_like:accuracy", format="messages", columns={"solution": "answer"})
    assert mapped.score(given) == [11.0, 10.0]
    message = r"missing 1 required .*'solution' .*The prompts' columns are: expected \(text\), .* answer \(text\)\.$"
    with pytest.raises(PipelineError, match=message):
        component("trl_like:accuracy", format="messages").score(given)
    with pytest.raises(
        PipelineError, match=r"reward 'mine': columns: the prompts have no column 'anwer'. Did you mean"
    ):
        component("trl_like:accuracy", columns={"solution": "anwer"}).check(given)
    for name in ("completions", "not-a-name"):
        with pytest.raises(ValueError, match=f"'{name}' cannot be an argument of its own"):
            component("trl_like:accuracy", columns={name: "answer"})
