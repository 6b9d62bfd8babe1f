"""A project with nothing computed, for `ppo-pipeline score`: its rewards, and what the command prints."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import save_tiny
from reward_models import POSITIONS
from ruamel.yaml import YAML

from ppo_pipeline.cli.main import main
from ppo_pipeline.settings.params import load_params

ENGLISH = Path(__file__).resolve().parent.parent / "params/english.yaml"
RULE: dict[str, Any] = {
    "name": "found", "type": "rule", "weight": 1.0, "match": "word", "column": "expected", "pattern": None,
    "tolerance": None, "hit": 1.0, "miss": 0.0, "length_penalty": 0.0, "max_length_penalty": None, "case_column": None,
}  # fmt: skip
MODEL: dict[str, Any] = {
    "name": "helpful", "type": "model", "weight": 2.0, "model": "./judge", "revision": None, "pickled_weights": False,
    "ensemble": None,
    "input": "pair", "label": None, "output": "logit", "max_tokens": POSITIONS, "too_long": "error",
    "batch_tokens": 96, "device": "cpu", "dtype": "fp32",
}  # fmt: skip
HTTP: dict[str, Any] = {
    "name": "judge", "type": "http", "weight": 1.0, "format": "text", "columns": ["expected"], "batch_size": 8,
    "timeout_seconds": 300.0, "retries": 0, "max_answer_bytes": 1000, "token_variable": None,
}  # fmt: skip
FUNCTIONS = """
import json

def brief(prompts, completions, completion_ids, **columns):
    print("a function's own words")
    return [-float(len(c)) for c in completions]

def tokens(completion_ids, **_):
    return [sum(ids) for ids in completion_ids]

def shown(prompts, **_):
    return [len(p) + 1000 * p.count("<|system|>") for p in prompts]

def careless(prompts, **_):
    try:
        return [len(p) for p in prompts]
    except Exception:
        return [1.0]

def careless_none(completion_ids, **_):
    try:
        return [len(ids) for ids in completion_ids]
    except Exception:
        return [None]

def dumped(prompts, **_):
    return [len(json.dumps(prompts))]

def roles(prompts, completions, split, **columns):
    assert all(c == [{"role": "assistant", "content": c[0]["content"]}] for c in completions)
    return [len(p) * 10 + (s == "heldout") for p, s in zip(prompts, split)]

def thing(completions, thing, **_):
    return [float(t in c) for c, t in zip(completions, thing)]

def kinds(expected, **_):
    seen.append(expected)
    return [0.0 for _ in expected]

seen = []
"""


def python(function: str, **changes: Any) -> dict[str, Any]:
    values = {"name": "mine", "type": "python", "weight": 1.0, "function": f"score_functions:{function}"}
    return {**values, "format": "text", "columns": {}, "none_as": None, **changes}


def bare_project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go to a project with the committed settings and nothing computed."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "score_functions", raising=False)
    Path("score_functions.py").write_text(FUNCTIONS)
    Path("params.yaml").write_text(ENGLISH.read_text())


def settings(*components: dict[str, Any], rounds: dict[str, Any] | None = None, **prompts: Any) -> None:
    """Change params.yaml: its reward components, its rounds, settings of the section `prompts`."""
    yaml = YAML()
    params = yaml.load(Path("params.yaml"))
    if components:
        params["reward"] = {"components": list(components), "correct": None}
    params["prompts"] |= prompts
    params["rounds"] = rounds or params["rounds"]
    yaml.dump(params, Path("params.yaml"))


def base(model: str | None = None, **options: Any) -> None:
    """Make data/base, as of base.model or of another one."""
    save_tiny(Path("data/base"), **options)
    source = load_params().base.model_dump() | ({"model": model} if model else {})
    Path("data/base/source.json").write_text(json.dumps(source))


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["score", *arguments])
    assert result.exit_code == code, result.output
    assert code == 0 or isinstance(result.exception, SystemExit), "a traceback instead of a message"
    return result


def rows(*arguments: str) -> list[dict[str, Any]]:
    """Return what --json prints, which is all of standard output."""
    return [json.loads(line) for line in run("--json", *arguments).stdout.splitlines()]


def component(name: str, *arguments: str) -> list[float]:
    return [row["components"][name] for row in rows(*arguments)]


def ask(*responses: str) -> list[str]:
    return ["--prompt", "Why?", *responses]


def write(name: str, *lines: dict[str, Any]) -> str:
    Path(name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return name
