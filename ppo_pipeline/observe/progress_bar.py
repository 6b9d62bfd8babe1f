"""The bar that a long stage draws in a terminal, by rich."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from .counter import Counter, spoken


class TimeLeft(ProgressColumn):
    """The time left by the mean of all items so far.

    rich's own column looks back 30 s: where an item takes longer, as a large model's optimizer step does, it has none.
    """

    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self.counter = counter

    def render(self, task: Task) -> Text:
        """Return the column's text."""
        left = self.counter.seconds_left()
        return Text("" if left is None else f"{spoken(left)} left", style="progress.remaining")


class Bar:
    """Draws what a Counter counts, with tokens/s and time left; gone from the screen once closed."""

    def __init__(self, counter: Counter) -> None:
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(counter.unit),
            TextColumn("{task.fields[speed]}"), TimeLeft(counter),
        )  # fmt: skip
        self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.bar.add_task(counter.label, total=counter.total, speed="")
        self.bar.start()

    def advanced(self, counter: Counter, done: int) -> None:
        """Move the bar."""
        speed = f"{counter.tokens_per_second:,.0f} tokens/s" if counter.tokens else ""
        self.bar.update(self.task, advance=done, speed=speed)

    def stepped(self, step: int, numbers: dict[str, float]) -> None:
        """Draw nothing: there is no room for a step's numbers."""

    def close(self) -> None:
        """Take the bar off the screen."""
        self.bar.stop()
