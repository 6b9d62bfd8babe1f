"""Progress of a long stage: a bar in a terminal, nothing in CI or a pipe, one line of result at the end."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from .terminal import spelled_out


class Counter:
    """What a stage has done so far; `advance` moves the bar."""

    def __init__(self) -> None:
        self.done = 0
        self.tokens = 0
        self.started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started

    def advance(self, done: int = 0, tokens: int = 0) -> None:
        """Count `done` finished items and `tokens` processed tokens."""
        self.done += done
        self.tokens += tokens


@contextmanager
def progress(total: int, label: str) -> Iterator[Counter]:
    """Yield a Counter over `total` items, drawn as a bar with tokens/s and time left in a terminal."""
    counter = Counter()
    if not sys.stderr.isatty() or os.environ.get("CI"):
        yield counter
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total, speed="")
        count = counter.advance

        def advance(done: int = 0, tokens: int = 0) -> None:
            count(done, tokens)
            speed = f"{counter.tokens / max(counter.seconds, 1e-9):,.0f} tokens/s" if counter.tokens else ""
            bar.update(task, advance=done, speed=speed)

        counter.advance = advance  # type: ignore[method-assign]
        yield counter


def result(stage: str, text: str) -> None:
    """Print the stage's one line of result."""
    click.echo(spelled_out(f"{stage}: {text}"))
