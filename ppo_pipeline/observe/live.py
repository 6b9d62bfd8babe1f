"""Numbers for TensorBoard while stages run: PPO_PIPELINE_LIVE names the folder. docs/experiments.md says how to look.

`step/...` are the numbers of each optimizer step, over the steps of all rounds. `round/...` are a round's metrics, over
the rounds. `rollout/...` and the like say how sampling and scoring go, over thousandths of a round: 2500 is in the
middle of the third round's. A line of rounds is one run for TensorBoard, named after its first; a branch is another.

Nothing here has a part in what stages write, and nothing is imported where the variable is not set.
"""

import os
import time
from pathlib import Path
from typing import Any

from ..errors import PipelineError
from ..settings.params import ROOT, Params, load_params
from .counter import Counter

SECONDS = 1.0  # between two points of a stage's progress


def line_of(params: Params, name: str) -> str:
    """Return the first round of the line that `name` is on."""
    return next((line[0] for line in params.lines if name == ROOT or name in line), ROOT)


def place_of(name: str) -> tuple[str, int] | None:
    """Return a round's line and its depth, as params.yaml has them now; None where no round has that name."""
    try:
        params = load_params(Path("params.yaml"))
    except PipelineError:  # edited while a stage runs
        return None
    return (line_of(params, name), params.depth(name)) if name == ROOT or name in params.all_rounds else None


def open_writer(folder: str, line: str) -> Any:
    """Open a writer of TensorBoard's files in `folder`/[experiment/]line."""
    return writer_class()(str(Path(folder, os.environ.get("DVC_EXP_NAME", ""), line)))


def writer_class() -> Any:
    """Return tensorboard's writer; PipelineError where tensorboard is not installed."""
    try:
        from tensorboard.summary import Writer
    except ImportError:
        raise PipelineError(
            "PPO_PIPELINE_LIVE is set, but tensorboard is not installed: pip install -c constraints.txt -e '.[live]', "
            "or unset the variable."
        ) from None
    return Writer


def write_round(folder: str, label: str, numbers: dict[str, Any]) -> None:
    """Write a stage's metrics of a round; label: the stage and its round."""
    place = place_of(label.partition(" ")[2])
    if place is None:
        return
    line, depth = place
    writer = open_writer(folder, line)
    for name, number in numbers.items():
        if isinstance(number, int | float):
            writer.add_scalar(f"round/{name}", number, depth)
    writer.close()


def watcher(folder: str, label: str) -> "Live | None":
    """Return a watcher of the stage and round that `label` names; None where it names no round."""
    stage, _, name = label.partition(" ")
    place = place_of(name)
    return None if place is None else Live(open_writer(folder, place[0]), stage, place[1])


class Live:
    """Writes how a stage of a round at `depth` goes; a Watcher (progress.py)."""

    def __init__(self, writer: Any, stage: str, depth: int) -> None:
        self.writer, self.stage, self.depth = writer, stage, depth
        self.told = time.perf_counter()
        self.tokens = 0

    def advanced(self, counter: Counter, done: int) -> None:
        """Write tokens/s since the last point, the finished share, and the tokens of a finished item."""
        now = time.perf_counter()
        if now - self.told < SECONDS:
            return
        x = round(1000 * (max(self.depth - 1, 0) + counter.done / max(counter.total, 1)))
        numbers = {"finished": counter.done / max(counter.total, 1)}
        if counter.tokens > self.tokens:
            numbers["tokens_per_second"] = (counter.tokens - self.tokens) / (now - self.told)
        for name, number in numbers.items():
            self.writer.add_scalar(f"{self.stage}/{name}", number, x)
        self.told, self.tokens = now, counter.tokens
        self.writer.flush()

    def stepped(self, step: int, numbers: dict[str, float]) -> None:
        """Write the numbers of an optimizer step."""
        for name, number in numbers.items():
            self.writer.add_scalar(f"step/{name}", number, step)
        self.writer.flush()

    def close(self) -> None:
        """Write what is still in memory."""
        self.writer.close()
