"""Which row a reward function was at when it raised, told by the lists that it was given: it is called once."""

import operator
from collections.abc import Iterator
from types import TracebackType
from typing import Any


class Place:
    """Where a loop over a list is, or an item that was read by its number. ended: the time at which it was left."""

    def __init__(self, of: "Looked", row: int = 0, ended: int | None = None) -> None:
        self.of, self.row, self.ended = of, row, ended


class Seen:
    """What a function has looked at in the lists that share this; time counts its looks.

    loops: those that are not through, by their beginning. item: the last one read by its number.
    """

    def __init__(self) -> None:
        self.time = 0
        self.loops: list[Place] = []
        self.item: Place | None = None

    def places(self) -> list[Place]:
        """Return where it looked last, an outer loop before those in it.

        An exception leaves all loops that it goes through, with no look in between.
        """
        loops = [loop for loop in self.loops if loop.ended in (None, self.time)]
        return loops or [item for item in [self.item] if item is not None and item.ended == self.time]


class Looked(list[Any]):
    """A list that notes in `seen` at which item it is looked. What C code reads of it is not noted."""

    def __init__(self, items: list[Any], seen: Seen, given: list[Any]) -> None:
        super().__init__(items)
        self.seen, self.given = seen, given

    def __iter__(self) -> Iterator[Any]:
        loop = Place(self)
        self.seen.loops = [*(each for each in self.seen.loops if each.ended is None), loop]
        try:
            for loop.row, item in enumerate(super().__iter__()):
                self.seen.time += 1
                yield item
        except GeneratorExit:
            loop.ended = self.seen.time
            raise
        if loop in self.seen.loops:  # with it end those that began after it, as of the other lists of a zip
            del self.seen.loops[self.seen.loops.index(loop) :]

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        if not isinstance(place, slice):
            self.seen.time += 1
            self.seen.item = Place(self, operator.index(place) % len(self), self.seen.time)
        return found

    def __reduce__(self) -> Any:
        return list, ([*super().__iter__()],)  # for another process, which this one's notes do not concern

    def as_given(self, row: int) -> bool:
        """Tell whether the item is the one that was given: the function may sort, shorten or rewrite its lists."""
        return row < min(len(self), len(self.given)) and bool(super().__getitem__(row) == self.given[row])


def row_of(error: BaseException, seen: Seen, lists: list[Looked]) -> int | None:
    """Return the row that the function was at when it raised; None where nothing tells it.

    What it looked at counts first; then what the functions below it were called with, as by threads and coroutines.
    """
    for place in seen.places():
        return place.row if place.of.as_given(place.row) else None
    for value in _arguments(error.__traceback__):
        for each in lists:
            rows = [row for row, item in enumerate(list.__iter__(each)) if item is value]
            if len(rows) == 1 and each.as_given(rows[0]):
                return rows[0]
    return None


def _arguments(traceback: TracebackType | None) -> list[Any]:
    """Return the texts, lists and maps that the functions of a traceback were called with, the innermost one's first.

    Not those texts of which Python keeps one object for all.
    """
    found: list[Any] = []
    while traceback is not None:
        code, values = traceback.tb_frame.f_code, traceback.tb_frame.f_locals
        found[:0] = [values[name] for name in code.co_varnames[: code.co_argcount] if name in values]
        traceback = traceback.tb_next
    return [value for value in found if isinstance(value, (list, dict)) or (isinstance(value, str) and len(value) > 1)]
