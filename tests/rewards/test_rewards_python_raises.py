"""A Python reward function that raises: file, line and sample are told, and it is called once; what it cannot take."""

import sys
from pathlib import Path

import pytest
from test_rewards_python import component, samples

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.rewards.samples import MissingColumn
from ppo_pipeline.rewards.scoring import score_samples
from ppo_pipeline.settings.reward_sections import Reward

FUNCTIONS = """\
CALLS = []

def in_a_list(completions, **kwargs):
    CALLS.append(1)
    return [int(c) for c in completions]

def in_a_loop(prompts, completions, expected, **kwargs):
    CALLS.append(1)
    found = []
    for index in range(len(completions)):
        found.append(int(completions[index]))
    return found

def side_by_side(completions, expected, **kwargs):
    CALLS.append(1)
    return [helped(c) for c, e in zip(completions, expected) if any(x == e for x in expected)]  # left at the first

def helped(text):
    return int(text)

def behind_the_loop(completions, **kwargs):
    CALLS.append(1)
    rewards = [len(c) for c in completions]
    return rewards[99]

def behind_two(completions, expected, **kwargs):
    CALLS.append(1)
    rewards = [len(c) for c, e in zip(completions, expected)]
    return rewards[99]

async def together(completions, **kwargs):
    import asyncio
    CALLS.append(1)
    async def one(text):
        await asyncio.sleep(0)
        return int(text)
    return await asyncio.gather(*[one(c) for c in completions])

def by_threads(completions, **kwargs):
    from concurrent.futures import ThreadPoolExecutor
    CALLS.append(1)
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(helped, completions))

def sorted_first(completions, **kwargs):
    CALLS.append(1)
    completions.sort()
    return [int(c) for c in completions]

def of_a_library(completions, **kwargs):
    import json
    CALLS.append(1)
    return [json.loads(c) for c in completions]

def narrow(prompts, completions, completion_ids):
    return [0.0 for _ in completions]

def asks(completions, difficulty, **kwargs):
    return [0.0 for _ in completions]

def wrapped(function):
    from functools import wraps
    @wraps(function)
    def inner(*args, **kwargs):
        return function(kwargs["completions"])
    return inner

@wrapped
def plain(completions):
    return [2.0 for _ in completions]
"""
IMPORTS = "import os\n\nimport no_such_library\n"


@pytest.fixture(autouse=True)
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    for name, text in {"raising": FUNCTIONS, "importing": IMPORTS}.items():
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    import raising

    found: list[int] = raising.CALLS
    return found


@pytest.mark.parametrize(
    ("function", "place"),
    [
        ("in_a_list", "raising.py, line 5, at sample 's1', response 'no'"),
        ("in_a_loop", "raising.py, line 11, at sample 's1', response 'no'"),
        ("side_by_side", "raising.py, line 19, at sample 's1', response 'no'"),
        ("behind_the_loop", "raising.py, line 24, for the batch, at no single sample"),
        ("behind_two", "raising.py, line 29, for the batch, at no single sample"),
        ("together", "raising.py, line 36, at sample 's1', response 'no'"),
        ("by_threads", "raising.py, line 19, at sample 's1', response 'no'"),
        ("sorted_first", "raising.py, line 48, for the batch, at no single sample"),
        ("of_a_library", "raising.py, line 53, at sample 's1', response 'no'"),
    ],
)
def test_line_and_sample_are_told_and_the_function_is_called_once(calls: list[int], function: str, place: str) -> None:
    given = samples("12", "no", "345")
    with pytest.raises(PipelineError) as caught:
        score_samples(Reward(correct=None, components=[component(f"raising:{function}")]), given)
    assert caught.value.message.startswith(f"reward 'mine': raising:{function} raised ")
    assert caught.value.message.endswith(f" ({place}).")
    assert calls == [1]


def test_its_lists_are_lists(calls: list[int]) -> None:
    """What other libraries take of them, and another process gets, is as of any list."""
    import json
    import pickle

    from ppo_pipeline.rewards.looked_at import Looked, Seen

    given = Looked(["a", "b"], Seen(), ["a", "b"])
    assert given == ["a", "b"] and json.dumps(given) == '["a", "b"]' and [*reversed(given)] == ["b", "a"]
    assert type(pickle.loads(pickle.dumps(given))) is list and pickle.loads(pickle.dumps(given)) == ["a", "b"]
    assert type(given[:1]) is list and given[-1] == "b"
    assert [(place.of is given, place.row) for place in given.seen.places()] == [(True, 1)]


def test_what_a_function_cannot_take_is_told_before_anything_is_scored(calls: list[int]) -> None:
    given = samples("a")
    with pytest.raises(MissingColumn, match=r"raising:asks: the prompts have no column 'difficulty'\. .*: expected"):
        component("raising:asks").check(given)
    with pytest.raises(PipelineError, match=r"raising:narrow cannot be called with .*'expected'; `\*\*kwargs` as its"):
        component("raising:narrow").check(given)
    with pytest.raises(PipelineError, match=r"No module named 'no_such_library' \(importing\.py, line 3\)"):
        component("importing:f").check(given)
    with pytest.raises(PipelineError, match=r"the module 'raising' has no 'absent'"):
        component("raising:absent").check(given)
    component("raising:plain").check(given)  # what it passes on is its own affair
    assert component("raising:plain").score(given) == [2.0]
    assert calls == []


def test_a_function_in_c_is_not_asked_what_it_takes() -> None:
    component("operator:itemgetter").check(samples("a"))
