"""Types of components are found by their files, and reading params.yaml with them stays light."""

import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from ppo_pipeline.rewards import types
from ppo_pipeline.rewards.component import Component
from ppo_pipeline.settings.reward_sections import component_types

ROOT = Path(__file__).resolve().parents[2]


def test_each_file_is_the_type_of_its_name() -> None:
    files = {path.stem for path in Path(types.__path__[0]).glob("*.py")} - {"__init__"}
    assert set(component_types()) == files
    assert {"rule", "python", "model", "http"} <= files
    for name, cls in component_types().items():
        assert cls.__module__ == f"{types.__name__}.{name}"
        assert cls.__doc__ and "score" in vars(cls), name


def test_a_type_without_a_name_or_with_one_that_is_taken_is_refused() -> None:
    with pytest.raises(TypeError, match=r"test_reward_types\.Nameless needs a field `type: Literal"):

        class Nameless(Component):
            pass

    with pytest.raises(
        TypeError, match=r"test_reward_types and ppo_pipeline\.rewards\.types\.rule both .* type 'rule'"
    ):

        class Rule(Component):
            type: Literal["rule"]

    assert component_types()["rule"].__name__ == "RuleComponent"


def test_params_yaml_is_read_and_checked_without_any_heavy_library() -> None:
    heavy = {"torch", "transformers", "pyarrow", "requests", "asyncio"}
    program = (
        "import sys; from ppo_pipeline.settings.params import load_params;"
        "assert [c.type for c in load_params().reward.components];"
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
