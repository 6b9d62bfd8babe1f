"""Mathematical expressions of texts, and whether two are equal: math-verify, within a limit of computing time."""

import logging
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import PipelineError
from ..errors.extras import import_extra
from ..prompts.column_values import answers, text_of
from .samples import MissingColumn, Samples

# Marks of LaTeX within a text, GSM8K's mark of the answer, lines, or words in a row.
SOLUTION = re.compile(r"[$\n]|\\boxed|\\\(|\\\[|####|(?<![\\A-Za-z])[A-Za-z]{2,}\s+[A-Za-z]{2,}")


class Expressions:
    """Reads and compares expressions for the component `name`; `given_up` counts what took too long."""

    def __init__(self, name: str, cpu_seconds: int) -> None:
        self.name = name
        self.cpu_seconds = cpu_seconds
        self.given_up = 0
        self._library = import_extra("math_verify", "math", f"reward '{name}': type: math")
        boxed_first = self._library.LatexExtractionConfig(boxed_match_priority=0)
        self._kinds = [boxed_first, self._library.ExprExtractionConfig()]
        for part in ("parser", "grader"):  # they warn that their own timeout is off
            logging.getLogger(f"math_verify.{part}").setLevel(logging.ERROR)

    def of_column(self, samples: Samples, column: str, whose: str) -> list[list[Any]]:
        """Return for each sample the expressions of its answers, a list for each; whose: sample or prompt, for errors.

        Raises PipelineError where there is no such column, or no expression in an answer.
        """
        if column not in samples.columns:
            raise MissingColumn(f"reward '{self.name}'", column, samples.columns)
        its = "its prompt's" if whose == "sample" else "its"
        known: dict[str, list[Any]] = {}
        found = []
        for sample_id, value in zip(samples.sample_ids, samples.columns[column], strict=True):
            try:
                texts = [text_of(answer) for answer in answers(value)]
                for text in texts:
                    known[text] = known.get(text) or self._answer(text)
                    if not known[text]:
                        raise ValueError(f"is {text!r:.60}, in which math-verify finds no expression")
            except ValueError as error:
                raise PipelineError(f"reward '{self.name}': {whose} '{sample_id}': {its} `{column}` {error}.") from None
            found.append([known[text] for text in texts])
        return found

    def _answer(self, text: str) -> list[Any]:
        """Return an answer's expression: bare LaTeX is all of it (2\\sqrt{3} is not 2), of a solution it is the end."""
        alone = [] if SOLUTION.search(text) else self.read(f"${text}$")
        return alone or self.read(text)

    def read(self, text: str) -> list[Any]:
        """Return what math-verify makes of a text's answer: its expression and how it was written; [] for none."""
        how = {"fallback_mode": "no_fallback", "parsing_timeout": None}
        return self._limited(lambda: self._library.parse(text, self._kinds, **how)) or []

    def shown(self, text: str) -> str | None:
        """Return the expression of a text's answer, the same for equal numbers; None for none."""

        def written() -> str:
            value = found[0].doit()  # 50% is 50 * (1/100) until then
            return str(value.evalf(12) if getattr(value, "is_number", False) else value)

        found = self.read(text)
        return self._limited(written) if found else None

    def equal(self, wanted: list[Any], response: str) -> bool:
        """Tell whether a response's expression equals one of `wanted`."""
        found = self.read(response)
        return bool(found) and any(self._verified(one, found) for one in wanted)

    def _verified(self, wanted: list[Any], found: list[Any]) -> bool:
        return bool(self._limited(lambda: self._library.verify(wanted, found, timeout_seconds=None)))

    def _limited(self, work: Callable[[], Any]) -> Any:
        """Return what `work` does; None where it takes too long."""
        try:
            with cpu_limit(self.cpu_seconds):
                return work()
        except OverTime:
            self.given_up += 1
            return None


class OverTime(BaseException):
    """The limit of computing time is over; no library's `except Exception` may hold it up."""


@contextmanager
def cpu_limit(seconds: int) -> Iterator[None]:
    """Raise OverTime in the block once this process has computed for so many seconds in it.

    Not by the clock, as math-verify's own timeout: on a busy machine 1/2 would not be read in time. Without signals
    (Windows; a thread) there is no limit.
    """

    def over(*_: Any) -> None:
        raise OverTime

    try:
        before = signal.signal(signal.SIGVTALRM, over)
    except (AttributeError, ValueError):
        yield
        return
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
