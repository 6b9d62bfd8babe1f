"""Which row a reward function was at when it raised, told by the lists that it was given: it is called once."""

import operator
from collections.abc import Iterator
from types import TracebackType
from typing import Any


class Looked(list[Any]):
    """A list that notes in `seen`, shared by all that the function is given, at which item it is looked.

    A loop that has gone through all items leaves what was noted before it began. What C code reads is not noted.
    """

    def __init__(self, items: list[Any], seen: list[tuple["Looked", int]], given: list[Any]) -> None:
        super().__init__(items)
        self.seen, self.given = seen, given

    def __iter__(self) -> Iterator[Any]:
        before = self.seen[:]
        for row, item in enumerate(super().__iter__()):
            self.seen[:] = [(self, row)]
            yield item
        self.seen[:] = before

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        if not isinstance(place, slice):
            self.seen[:] = [(self, operator.index(place) % len(self))]
        return found

    def __reduce__(self) -> Any:
        return list, ([*super().__iter__()],)  # for another process, which this one's notes do not concern

    def as_given(self, row: int) -> bool:
        """Tell whether the item is the one that was given: the function may sort, shorten or rewrite its lists."""
        return row < min(len(self), len(self.given)) and bool(super().__getitem__(row) == self.given[row])


def row_of(error: BaseException, lists: list[Looked]) -> int | None:
    """Return the row that the function looked at last before it raised; None where nothing tells it.

    What was noted counts first; then what the functions below it were called with, as by threads and coroutines.
    """
    seen = lists[0].seen if lists else []
    if seen and seen[0][0].as_given(seen[0][1]):
        return seen[0][1]
    for value in _arguments(error.__traceback__):
        for each in lists:
            rows = [row for row, item in enumerate(list.__iter__(each)) if item is value]
            if len(rows) == 1 and each.as_given(rows[0]):
                return rows[0]
    return None


def _arguments(traceback: TracebackType | None) -> list[Any]:
    """Return what the functions of a traceback were called with, the innermost one's first."""
    found: list[Any] = []
    while traceback is not None:
        code, values = traceback.tb_frame.f_code, traceback.tb_frame.f_locals
        found[:0] = [values[name] for name in code.co_varnames[: code.co_argcount] if name in values]
        traceback = traceback.tb_next
    return found
