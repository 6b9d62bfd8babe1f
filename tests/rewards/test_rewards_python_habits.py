"""What Python reward functions do besides returning a list: changed arguments, another folder, odd containers."""

import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_rewards import rule
from test_rewards_python import component, samples

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.rewards.samples import Samples, is_reward
from ppo_pipeline.rewards.scoring import score_samples
from ppo_pipeline.settings.reward_sections import Reward

FUNCTIONS = """
import os, sys
import numpy as np
import torch

def spoils(prompts, completions, completion_ids, expected, tags, **columns):
    for talk in prompts:
        talk.reverse()
        for message in talk:
            message["content"] = "spoiled"
    for each in completions:
        each[0]["content"] = "spoiled"
    for ids in completion_ids:
        ids.clear()
    for tag in tags:
        tag["names"].append("spoiled")
        tag["map"][0][1].append("spoiled")
    for values in (prompts, completions, completion_ids, expected, tags, *columns.values()):
        values.clear()
    return [0.0, 0.0]

def sees(prompts, completions, completion_ids, expected, tags, **columns):
    whole = [len(p) == 2 and p[0]["content"] == "s" and c[0]["content"] == "a" and len(i) == 2 and e == "a"
             and t == {"names": ["x"], "map": [("k", ["v"])]}
             for p, c, i, e, t in zip(prompts, completions, completion_ids, expected, tags)]
    return [float(w) for w in whole]

def leaves(completions, **kwargs):
    os.chdir("/")
    return [1.0 for _ in completions]

def leaves_and_fails(completions, **kwargs):
    os.chdir("/")
    raise KeyError("x")

async def leaves_later(completions, **kwargs):
    os.chdir("/")
    return [1.0 for _ in completions]

def exits(completions, **kwargs):
    sys.exit(0)

def late(completions, **kwargs):
    for c in completions:
        yield 1 / (len(c) - 1)

def lazy(completions, **kwargs):
    return (float(len(c)) for c in completions)

RETURNED = {
    "dict": {0: 1.0, 1: 2.0}, "keys": {1.0: 0, 2.0: 0}.keys(), "set": {1.0, 2.0}, "frozenset": frozenset((1.0, 2.0)),
    "str": "12", "bytes": b"12", "bytearray": bytearray(b"12"), "none": None, "column": np.ones((2, 1)),
    "scalar": np.float64(1), "tensor0": torch.tensor(1.0), "tensor2": torch.ones(2, 1), "function": len,
    "tuple": (1.0, 2.0), "values": {0: 1.0, 1: 2.0}.values(), "array": np.array([1, 2], np.float32),
    "ints": np.array([1, 2]), "tensor": torch.tensor([1.0, 2.0], requires_grad=True),
    "bf16": torch.tensor([1.0, 2.0], dtype=torch.bfloat16), "scalars": [np.float32(1.0), torch.tensor(2.0)],
    "mixed": [np.int64(1), 2], "truths": [np.bool_(True), 2.0], "bools": np.array([True, True]),
    "huge": [1.0, 1e300], "large": [1.0, -3.5e38], "int": [1.0, 10**5000], "inf": np.array([1.0, np.inf]),
    "nan": [1.0, float("nan")], "text": [1.0, "2.0"], "nested": [1.0, [2.0]], "complex": [1.0, 2j],
    "masked": np.ma.array([1.0, 2.0], mask=[False, True]), "none_in": [1.0, None], "object": [1.0, object()],
    "bad_repr": [1.0, type("Bad", (), {"__repr__": lambda self: 1 / 0})()],
}

def returns(name):
    def function(completions, **kwargs):
        return RETURNED[name]
    return function

for name in RETURNED:
    globals()["returns_" + name] = returns(name)
"""
MODULES = {"habits": FUNCTIONS, "leaver": "import os; os.chdir('/')\ndef f(completions, **k): return [0.0, 0.0]\n"}


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in {**MODULES, "exiter": "import sys; sys.exit(0)\n"}.items():
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tag() -> dict[str, Any]:
    return {"names": ["x"], "map": [("k", ["v"])]}  # as Arrow gives maps


def given() -> Samples:
    found = samples("a", "a")
    return Samples(**{**vars(found), "columns": {**found.columns, "tags": [tag(), tag()]}})


def test_what_a_function_changes_no_other_component_sees() -> None:
    """`sees` looks at everything that `spoils` has emptied or rewritten; so does the rule."""
    both = given()
    before = deepcopy(both)
    spoils, sees = (component(f"habits:{name}", name=name, format="messages") for name in ("spoils", "sees"))
    parts = [spoils, sees, rule(match="exact", length_penalty=0.0)]
    found = score_samples(Reward(correct=None, components=parts), both)
    assert found["sees"] == found["rule"] == [1.0, 1.0]
    assert both == before


@pytest.mark.parametrize("function", ["habits:leaves", "habits:leaves_later", "leaver:f"])
def test_a_function_that_changes_the_folder_leaves_the_stage_where_it_was(module: Path, function: str) -> None:
    assert len(component(function).score(given())) == 2
    assert Path.cwd() == module


def test_one_that_fails_elsewhere_too(module: Path) -> None:
    with pytest.raises(
        PipelineError, match=r"habits:leaves_and_fails raised KeyError: 'x' \(habits.py, line 34, for the batch"
    ):
        component("habits:leaves_and_fails").score(given())
    assert Path.cwd() == module


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            "habits:exits",
            r"habits:exits raised SystemExit: 0 \(habits.py, line 41, for the batch, at no single sample\)",
        ),
        ("exiter:f", r"importing 'exiter' raised SystemExit: 0"),
        (
            "habits:late",
            r"habits:late raised ZeroDivisionError: .* \(habits.py, line 45, at sample 's0', response 'a'\)",
        ),
        ("habits:returns_dict", "returned dict, expected a list"),
        ("habits:returns_keys", "returned dict_keys, expected a list"),
        ("habits:returns_set", "returned set, expected a list"),
        ("habits:returns_frozenset", "returned frozenset, expected a list"),
        ("habits:returns_str", "returned str, expected a list"),
        ("habits:returns_bytes", "returned bytes, expected a list"),
        ("habits:returns_bytearray", "returned bytearray, expected a list"),
        ("habits:returns_none", "returned NoneType, expected a list"),
        ("habits:returns_column", "returned ndarray with 2 dimensions, expected a list"),
        ("habits:returns_scalar", "returned float64 with 0 dimensions, expected a list"),
        ("habits:returns_tensor0", "returned Tensor with 0 dimensions, expected a list"),
        ("habits:returns_tensor2", "returned Tensor with 2 dimensions, expected a list"),
        ("habits:returns_function", "returned builtin_function_or_method, expected a list"),
        ("habits:returns_huge", r"sample 's1': 1e\+300 is not a finite number that a 32-bit float holds"),
        ("habits:returns_large", r"sample 's1': -3.5e\+38 is not a finite number"),
        ("habits:returns_int", "sample 's1': a value of type int is not a finite number"),
        ("habits:returns_inf", "sample 's1': inf is not a finite number"),
        ("habits:returns_nan", "sample 's1': nan is not a finite number"),
        ("habits:returns_text", "sample 's1': '2.0' is not a finite number"),
        ("habits:returns_nested", r"sample 's1': \[2.0\] is not a finite number"),
        ("habits:returns_complex", "sample 's1': 2j is not a finite number"),
        ("habits:returns_masked", "sample 's1': nan is not a finite number"),
        ("habits:returns_none_in", "sample 's1': None is not a finite number"),
        ("habits:returns_object", "sample 's1': <object object"),
        ("habits:returns_bad_repr", "sample 's1': a value of type Bad is not a finite number"),
    ],
)
def test_what_is_no_list_of_rewards_is_named(function: str, message: str) -> None:
    with pytest.raises(PipelineError, match=rf"reward 'mine': .*{message}"):
        score_samples(Reward(correct=None, components=[component(function)]), given())


@pytest.mark.parametrize(
    "name", ["tuple", "values", "array", "ints", "tensor", "bf16", "scalars", "mixed", "truths", "bools"]
)
def test_what_holds_one_number_for_each_sample_counts(name: str) -> None:
    found = score_samples(Reward(correct=None, components=[component(f"habits:returns_{name}")]), given())
    assert found["mine"] == [1.0, 1.0 if name == "bools" else 2.0]
    assert all(type(reward) is float for reward in found["mine"])


def test_a_generator_is_read_to_its_end() -> None:
    assert component("habits:lazy").score(given()) == [1.0, 1.0]


def test_the_largest_32_bit_float_is_a_reward() -> None:
    largest = float(np.finfo(np.float32).max)
    assert is_reward(largest) and is_reward(-largest) and not is_reward(np.nextafter(largest, np.inf))
    assert np.isfinite(np.float32(largest))
