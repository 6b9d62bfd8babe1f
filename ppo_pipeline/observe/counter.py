"""What a long stage has done so far, and how long the rest will take."""

import time
from typing import Protocol


class Watcher(Protocol):
    """Is told what a Counter counts."""

    def advanced(self, counter: "Counter", done: int) -> None:
        """Take note that `done` further items are finished."""

    def stepped(self, step: int, numbers: dict[str, float]) -> None:
        """Take note of the numbers of an optimizer step; `step` counts on over the rounds."""

    def close(self) -> None:
        """Leave nothing behind: the stage's work ended, or failed."""


class Counter:
    """What a stage has done so far of `total` items; `watchers` are told.

    unit: what the items are called. at_once: how many are under way together, of which none is counted until it ends.
    """

    def __init__(self, total: int = 0, label: str = "", unit: str = "", at_once: int = 0) -> None:
        self.total, self.label, self.unit, self.at_once = total, label, unit, at_once
        self.done = self.skipped = 0
        self.tokens = 0
        self.started = self.latest = time.perf_counter()
        self.watchers: list[Watcher] = []

    def begin(self) -> None:
        """Count the time from now on: what was to be loaded is loaded."""
        self.started = self.latest = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started

    @property
    def tokens_per_second(self) -> float:
        """Tokens by second since the start."""
        return self.tokens / max(self.seconds, 1e-9)

    def advance(self, done: int = 0, tokens: int = 0) -> None:
        """Count `done` finished items and `tokens` processed tokens."""
        self.done += done
        self.tokens += tokens
        if done:
            self.latest = time.perf_counter()
        for watcher in self.watchers:
            watcher.advanced(self, done)

    def skip(self, done: int) -> None:
        """Count items that an earlier attempt finished: they say nothing about the speed of this one."""
        self.skipped += done
        self.advance(done)

    def step(self, step: int, numbers: dict[str, float]) -> None:
        """Tell the numbers of an optimizer step."""
        for watcher in self.watchers:
            watcher.stepped(step, numbers)

    def seconds_left(self) -> float | None:
        """Return the time left if the items to come take as long as those done; None as long as none is.

        Items that are under way together count as half done: the sequences of a batch, say, which end all at about
        the same time, so that a share of finished ones alone would say nothing until then.
        """
        done = self.done - self.skipped
        if done <= 0:
            return None
        if self.at_once:
            half = min(self.at_once, self.total - self.done) / 2
            return self.seconds * (self.total - self.done - half) / (done + half)
        left = (self.latest - self.started) * (self.total - self.done) / done
        return max(0.0, left - (time.perf_counter() - self.latest))


def spoken(seconds: float) -> str:
    """Return a time as people say it: 40 s, 2.5 min, 1.3 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
