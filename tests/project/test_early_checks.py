"""Stage `settings` refuses what would end a later round: nothing has been sampled yet, and no model is there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stage_runs import Stages

PYTHON = {"type": "python", "name": "mine", "weight": 1.0, "format": "text", "columns": {}, "none_as": None}
MODEL = {
    "type": "model", "name": "judge", "weight": 1.0, "ensemble": None, "revision": None, "pickled_weights": False,
    "input": "pair", "label": None, "output": "logit", "max_tokens": 64, "too_long": "error", "batch_tokens": 64,
    "device": "cpu", "dtype": "fp32",
}  # fmt: skip
HTTP = {
    "type": "http", "name": "service", "weight": 1.0, "url": "http://127.0.0.1:1/", "format": "text", "columns": [],
    "batch_size": 1, "timeout_seconds": 1.0, "retries": 0, "max_answer_bytes": 100, "token_variable": None,
}  # fmt: skip
FUNCTIONS = {
    "early_good": "def f(completions, **kwargs):\n    return [0.0 for c in completions]\n",
    "early_column": "def f(completions, difficulty, **kwargs):\n    return [0.0 for c in completions]\n",
    "early_raises": "LIMIT = 3\nraise RuntimeError('no licence')\n",
}


def component(**changes: Any) -> Callable[[Any], None]:
    return lambda settings: settings["reward"]["components"][1].update(changes)


def added(entry: dict[str, Any], **changes: Any) -> Callable[[Any], None]:
    return lambda settings: settings["reward"]["components"].append({**entry, **changes})


def of_round_2(change: Callable[[Any], None]) -> Callable[[Any], None]:
    """Make a change of `reward` or `rollout` in r002 alone."""

    def changed(params: Any) -> None:
        from copy import deepcopy

        own = {name: deepcopy(params[name]) for name in ("reward", "rollout")}
        change(own)
        params["rounds"]["r002"].update({name: own[name] for name in own if own[name] != params[name]})

    return changed


CASES = {
    "a column of a rule": (component(case_column="exact"), "the prompts have no column 'exact'"),
    "a column that is sent": (added(HTTP, columns=["topic"]), "reward 'service': columns: .* no column 'topic'"),
    "a token": (added(HTTP, token_variable="NO_SUCH_TOKEN"), "variable NO_SUCH_TOKEN is not set"),
    "a column of a function": (added(PYTHON, function="early_column:f"), "the prompts have no column 'difficulty'"),
    "a function": (added(PYTHON, function="early_good:g"), "the module 'early_good' has no 'g'"),
    "a module": (added(PYTHON, function="early_absent:f"), "No module named 'early_absent'"),
    "a module that raises": (added(PYTHON, function="early_raises:f"), r"no licence \(early_raises.py, line 2\)"),
    "a model's folder": (added(MODEL, model="./judge"), "'./judge' is no folder here, and no hub id"),
    "an ensemble's folders": (added(MODEL, model="judges", ensemble="mean"), "'judges' has no folders 1, 2, ... in it"),
    "prompts": (
        lambda settings: settings["rollout"].update(prompts_per_round=7),
        r"rollout.prompts_per_round: 7, but there are 6 training prompts",
    ),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    return Stages(tmp_path_factory.mktemp("project"), lambda params: None)


@pytest.mark.parametrize("place", ["everywhere", "in r002 alone"])
@pytest.mark.parametrize("case", CASES)
def test_what_is_missing_is_named_before_anything_costs(
    project: Stages, monkeypatch: pytest.MonkeyPatch, case: str, place: str
) -> None:
    change, message = CASES[case]
    for name, text in FUNCTIONS.items():
        (project.folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(project.folder)
    path: Path = project.folder / "params.yaml"
    before = path.read_text()
    project.edit(change if place == "everywhere" else of_round_2(change))
    where = r"rounds\.r002.*" if place == "in r002 alone" else "^((?!r002).)*"
    try:
        with pytest.raises(AssertionError, match=f"{where}{message}"):
            project.run("settings")
    finally:
        path.write_text(before)
    assert not (project.folder / "data/rounds").exists()


def test_a_model_that_is_trained_here_need_not_be_there_yet(project: Stages) -> None:
    from ppo_pipeline.rewards.types.model import ModelComponent

    ModelComponent(**{**MODEL, "model": "data/reward_model/kind"}).check(None)  # type: ignore[arg-type]


def test_a_watched_model_that_has_gone_stops_nothing(project: Stages) -> None:
    """DVC keeps the record of its files; whether it must be loaded again is not known here."""
    path = project.folder / "params.yaml"
    before = path.read_text()
    project.edit(lambda params: params["reward"]["components"].append({**MODEL, "model": "./gone"}))
    project.edit(lambda params: params.update(sources={"judge": "./gone"}))
    record = project.folder / "data/sources/judge/files.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    try:
        project.run("settings")
    finally:
        path.write_text(before)


def test_held_out_prompts_that_are_never_asked_need_no_answer(project: Stages) -> None:
    """As the stage `evaluate` reads them; the training prompts are all read."""
    import pyarrow as pa

    from ppo_pipeline.tables.prompts import PROMPTS

    path = project.folder / "data/prompts.parquet"
    table = PROMPTS.read(path)
    place = table.column_names.index("expected")
    for split, code in (("heldout", 0), ("train", 1)):
        last = max(i for i, each in enumerate(table.column("split").to_pylist()) if each == split)
        answers = [" " if i == last else answer for i, answer in enumerate(table.column("expected").to_pylist())]
        PROMPTS.write(table.set_column(place, "expected", pa.array(answers)), path)
        before = (project.folder / "params.yaml").read_text()
        project.edit(lambda params: params["evaluate"].update(max_prompts=1))
        if code:
            with pytest.raises(AssertionError, match="its `expected` is empty"):
                project.run("settings")
        else:
            project.run("settings")
        (project.folder / "params.yaml").write_text(before)
    PROMPTS.write(table, path)
