"""Where the heavy stages run: in their own process, or by workers on Ray. No output depends on it."""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pydantic import ValidationError

from ..errors import PipelineError
from ..settings.explain import explain
from ..settings.sections import ComputeAnywhere
from ..settings.yaml_file import read_map

ENGINE, WORKERS, STALL = "PPO_PIPELINE_ENGINE", "PPO_PIPELINE_WORKERS", "PPO_PIPELINE_STALL_SECONDS"
STALL_SECONDS = 900.0


@dataclass(frozen=True)
class Where:
    """engine: local or ray. workers: processes of engine ray."""

    engine: str = "local"
    workers: int = 1


def where(path: Path = Path("params.yaml")) -> Where:
    """Return what `compute.engine` and `compute.workers` say, or the environment in their place.

    They are read here and not in data/settings/, which has only what outputs depend on. Raises PipelineError for
    another value, and where Ray is asked for and not installed.
    """
    found = Where(os.environ.get(ENGINE) or "", _workers(os.environ.get(WORKERS) or "0"))
    if not (found.engine and found.workers):
        written = _compute(path)
        found = Where(found.engine or written.engine, found.workers or written.workers)
    if found.engine not in ("local", "ray"):
        raise PipelineError(f"{ENGINE}: '{found.engine}' is no engine; local and ray are.")
    if found.engine == "ray" and find_spec("ray") is None:
        raise PipelineError(
            "compute.engine: ray: Ray is not installed here; `pip install 'ppo-pipeline[ray]'`, or set local."
        )
    return found


def _compute(path: Path) -> ComputeAnywhere:
    section = read_map(path, "sections with settings").get("compute")
    try:
        return ComputeAnywhere.model_validate(section)
    except ValidationError as error:
        told = explain(error, ComputeAnywhere, f"{path}: compute")
        raise PipelineError(told.replace(": compute: ", ": compute.")) from None


def _workers(text: str) -> int:
    if not text.isdecimal():
        raise PipelineError(f"{WORKERS}: '{text}' is no number of workers, 1 or more.")
    return int(text)


def stall_seconds() -> float:
    """Return after how many seconds without a sign of life a stage gives its workers up."""
    text = os.environ.get(STALL) or str(STALL_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds > 0:
        raise PipelineError(f"{STALL}: '{text}' is no number of seconds above 0.")
    return seconds
