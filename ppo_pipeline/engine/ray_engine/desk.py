"""Where ranks leave word for the driver: an actor that rank 0 tells and the driver asks, so that neither waits."""

from typing import Any, NamedTuple

from ...observe.counter import Counter
from .nodes import Identity


class Word(NamedTuple):
    """What there is to know since the last time; `done` and `tokens` are totals.

    skipped: items that were done before the first start. steps: (number, metrics) of optimizer steps. lines: what was
    printed. lost: what Ray Train says of each failure, by rank. ranks: who they are, none until they have met.
    begun: whether rank 0 has loaded what the work needs.
    """

    done: int
    skipped: int
    tokens: int
    steps: list[tuple[int, dict[str, float]]]
    lines: list[str]
    lost: list[dict[int, str]]
    ranks: tuple[Identity, ...]
    begun: bool


class Desk:
    """Its numbers go on where ranks start again: what is done twice is counted once."""

    def __init__(self) -> None:
        self.started = self.done = self.skipped = self.tokens = 0
        self.tokens_at = {0: 0}  # how many there were when so many items were done
        self.last_step = -1
        self.steps: list[tuple[int, dict[str, float]]] = []
        self.lines: list[str] = []
        self.lost: list[dict[int, str]] = []
        self.ranks: tuple[Identity, ...] = ()
        self.begun = False
        self.end: Any = None

    def meet(self, ranks: tuple[Identity, ...]) -> None:
        """Take note of who the ranks are, each time that they start."""
        self.started += 1
        self.ranks = ranks

    def begin(self) -> None:
        """Take note that what the work needs is loaded."""
        self.begun = True

    def count(self, done: int, skipped: int, tokens: int) -> None:
        """Take note of what rank 0 has counted since its start; `skipped` of it was in a snapshot."""
        self.tokens_at[done] = self.tokens_at.get(skipped, 0) + tokens
        self.done, self.tokens = max(self.done, done), max(self.tokens, self.tokens_at[done])
        if self.started == 1:
            self.skipped = skipped

    def step(self, number: int, numbers: dict[str, float]) -> None:
        """Take note of an optimizer step, once."""
        if number > self.last_step:
            self.last_step = number
            self.steps.append((number, numbers))

    def say(self, line: str) -> None:
        """Take note of a line that rank 0 printed."""
        self.lines.append(line)

    def lose(self, failures: dict[int, str]) -> None:
        """Take note of ranks that failed, and of what Ray Train says of each."""
        self.lost.append(failures)

    def finish(self, end: Any) -> None:
        """Take note of what the work came to."""
        self.end = end

    def take(self) -> Word:
        """Return what there is to know since the last time."""
        word = Word(self.done, self.skipped, self.tokens, self.steps, self.lines, self.lost, self.ranks, self.begun)
        self.steps, self.lines, self.lost = [], [], []
        return word

    def ended(self) -> Any:
        """Return what the work came to; None where it did not end."""
        return self.end


class ToldCounter(Counter):
    """The Counter of rank 0, which tells a Desk."""

    def __init__(self, desk: Any) -> None:
        super().__init__()
        self.desk = desk
        self.watchers = [Telling(desk)]

    def begin(self) -> None:
        """As Counter.begin."""
        super().begin()
        self.desk.begin.remote()


class Telling:
    """A Watcher that tells a Desk."""

    def __init__(self, desk: Any) -> None:
        self.desk = desk

    def advanced(self, counter: Counter, done: int) -> None:
        """Tell the totals."""
        self.desk.count.remote(counter.done, counter.skipped, counter.tokens)

    def stepped(self, step: int, numbers: dict[str, float]) -> None:
        """Tell the numbers of an optimizer step."""
        self.desk.step.remote(step, numbers)

    def close(self) -> None:
        """Nothing to do."""


class Lines:
    """A text stream whose whole lines go to a Desk."""

    encoding, errors = "utf-8", "strict"

    def __init__(self, desk: Any) -> None:
        self.desk, self.rest = desk, ""

    def write(self, text: str) -> int:
        """Tell the lines that are whole now."""
        *whole, self.rest = (self.rest + text).split("\n")
        for line in whole:
            self.desk.say.remote(line)
        return len(text)

    def flush(self) -> None:
        """Nothing waits."""

    def isatty(self) -> bool:
        """Tell that nobody watches: no progress bars."""
        return False
