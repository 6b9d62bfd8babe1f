"""Progress of a long stage: a bar in a terminal, a line now and then elsewhere, one line of result at the end.

With PPO_PIPELINE_LIVE set to a folder, TensorBoard's files are written there too (live.py).
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import click

from ..errors.terminal import spelled_out
from .counter import Counter, spoken

LINE_SECONDS = 30.0


class Lines:
    """A line every LINE_SECONDS, for logs: `update r003: 40 % of 128 samples, 2.5 min left`."""

    def __init__(self) -> None:
        self.said = time.perf_counter()

    def advanced(self, counter: Counter, done: int) -> None:
        """Print a line where the last one is long ago."""
        if time.perf_counter() - self.said < LINE_SECONDS or counter.done >= counter.total:
            return
        self.said = time.perf_counter()
        text = f"{100 * counter.done / counter.total:.0f} % of {counter.total} {counter.unit}"
        if counter.tokens:
            text += f", {counter.tokens_per_second:,.0f} tokens/s"
        left = counter.seconds_left()
        click.echo(f"{counter.label}: {text}{'' if left is None else f', {spoken(left)} left'}", err=True)

    def stepped(self, step: int, numbers: dict[str, float]) -> None:
        """Say nothing: the result's line has them."""

    def close(self) -> None:
        """Nothing to do."""


@contextmanager
def progress(total: int, label: str, unit: str, at_once: int = 0) -> Iterator[Counter]:
    """Yield a Counter over `total` items; label: the stage and its round, `update r003`. unit, at_once: as there."""
    counter = Counter(total, label, unit, at_once)
    if sys.stderr.isatty() and not os.environ.get("CI"):
        from .progress_bar import Bar

        counter.watchers.append(Bar(counter))
    else:
        counter.watchers.append(Lines())
    live = _live().watcher(live_folder(), label) if live_folder() else None
    if live is not None:
        counter.watchers.append(live)
    try:
        yield counter
    finally:
        for watcher in counter.watchers:
            watcher.close()


def result(stage: str, text: str, numbers: dict[str, Any] | None = None) -> None:
    """Print the stage's one line of result. numbers: its metrics, for those who watch the round live."""
    click.echo(spelled_out(f"{stage}: {text}"))
    if numbers and live_folder():
        _live().write_round(live_folder(), stage, numbers)


def live_folder() -> str:
    """Return where TensorBoard's files go; empty where none are wanted."""
    return os.environ.get("PPO_PIPELINE_LIVE", "")


def check_live() -> None:
    """Raise PipelineError where TensorBoard's files are wanted and it is not installed."""
    if live_folder():
        _live().writer_class()


def _live() -> ModuleType:
    """Return live.py, imported only where TensorBoard's files are wanted."""
    from . import live

    return live
