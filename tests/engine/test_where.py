"""Where stages run: params.yaml, the environment in its place, and that no output's settings have it."""

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from stage_runs import REPOSITORY

from ppo_pipeline.engine import where as module
from ppo_pipeline.engine.where import ENGINE, STALL, WORKERS, Where, stall_seconds, where
from ppo_pipeline.errors import PipelineError
from ppo_pipeline.settings.files import settings_texts
from ppo_pipeline.settings.params import Params, load_params


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project with engine ray and 3 workers; Ray counts as installed."""
    monkeypatch.chdir(tmp_path)
    for name in (ENGINE, WORKERS, STALL):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "find_spec", lambda name: name == "ray")
    write(engine="ray", workers=3)


def write(**compute: object) -> None:
    params = YAML().load(REPOSITORY / "params.yaml")
    params["compute"].update(compute)
    YAML().dump(params, Path("params.yaml"))


def test_the_environment_takes_the_place_of_params_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    assert where() == Where("ray", 3)
    monkeypatch.setenv(WORKERS, "8")
    assert where() == Where("ray", 8)
    monkeypatch.setenv(ENGINE, "local")
    Path("params.yaml").unlink()
    assert where() == Where("local", 8), "nothing is left to read"


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        (ENGINE, "Ray", "'Ray' is no engine; local and ray are"),
        (WORKERS, "two", "'two' is no number of workers"),
        (WORKERS, "-1", "'-1' is no number of workers"),
    ],
)
def test_a_wrong_value_is_told(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, text: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(PipelineError, match=f"{variable}: {text}"):
        where()


@pytest.mark.parametrize("value", ["soon", "0", "-3", "nan"])
def test_a_wrong_time_is_told(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(STALL, value)
    with pytest.raises(PipelineError, match=f"{STALL}: '{value}' is no number of seconds"):
        stall_seconds()


def test_a_wrong_setting_is_told_as_the_stage_settings_does() -> None:
    write(engine="slurm")
    with pytest.raises(PipelineError, match=r"^params\.yaml: compute\.engine: .*found 'slurm'"):
        where()


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(PipelineError, match=r"Ray is not installed here; `pip install 'ppo-pipeline\[ray\]'`"):
        where()
    write(engine="local")
    assert where().engine == "local"


def test_no_stage_s_settings_have_the_engine() -> None:
    def texts(params: Params) -> list[tuple[str, str, str]]:
        return list(settings_texts(params))

    with_ray = texts(load_params())
    write(engine="local", workers=1)
    assert texts(load_params()) == with_ray
    machines = [json.loads(text).get("compute", {}) for _, _, text in with_ray]
    assert any(machines) and not any({"engine", "workers"} & set(machine) for machine in machines)
    assert not any("workers" in text or '"ray"' in text for _, _, text in with_ray)
