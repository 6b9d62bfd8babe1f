"""What a tracker does, and how a line of rounds gets to it without anything being sent twice."""

import math
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from ..errors import PipelineError
from ..errors.extras import to_install
from .lines import Line, Points

CLOSE = 1e-6  # TensorBoard keeps 32 bits of a number
# By the value of --to: module and class, and the extra that installs the library.
TRACKERS = {
    "tensorboard": ("tensorboard_tracker", "TensorBoardTracker", "live"),
    "mlflow": ("mlflow_tracker", "MlflowTracker", "mlflow"),
    "wandb": ("wandb_tracker", "WandbTracker", "wandb"),
    "trackio": ("trackio_tracker", "TrackioTracker", "trackio"),
}


class Tracker(Protocol):
    """A line's run in a tracker, opened: `Class(project, where, line)`.

    project: what the runs stand under there. where: a folder, an address or whatever else the tracker is told, None for
    its default. place: where people find the run.
    """

    place: str

    def __init__(self, project: str, where: str | None, line: Line) -> None:
        """Find the line's run; nothing is made there before something is sent."""

    def sent(self) -> Points:
        """Return what the run has already."""

    def send(self, points: Points) -> None:
        """Add points: they are there when this returns. Makes the run, with the settings, where there is none."""


@dataclass(frozen=True)
class Sent:
    """new: points that were sent. changed: those among them that were there with another number. kept: the others."""

    new: int
    changed: int
    kept: int


def tracker_class(name: str) -> Any:
    """Return the class of a tracker; PipelineError, with the extra to install, where its library is missing."""
    module, attribute, extra = TRACKERS[name]
    try:
        return getattr(import_module(f"{__package__}.{module}"), attribute)
    except ModuleNotFoundError as error:
        raise PipelineError(f"--to {name}: {error.name} is not installed: {to_install(extra)}.") from None


def send_new(tracker: Tracker, line: Line) -> Sent:
    """Send those points of a line that the tracker has not got, or got with another number."""
    there = tracker.sent()
    new = {place: number for place, number in line.points.items() if not _same(there.get(place), number)}
    if new:
        tracker.send(new)
    return Sent(len(new), sum(place in there for place in new), len(line.points) - len(new))


def by_step(points: Points) -> list[tuple[int, dict[str, float]]]:
    """Return the points as (step, {metric: number}), steps in order."""
    steps: dict[int, dict[str, float]] = {}
    for (metric, step), number in sorted(points.items()):
        steps.setdefault(step, {})[metric] = number
    return sorted(steps.items())


def _same(there: float | None, number: float) -> bool:
    return there is not None and math.isclose(there, number, rel_tol=CLOSE, abs_tol=1e-30)
