"""What property tests and fuzzing share: how many examples, damaged bytes, changed maps, and the one allowed error.

`FUZZ=50 python -m pytest -k 'properties or fuzz'` tries 50 times as many examples, other ones
each time; without FUZZ they are the same in each run.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from ppo_pipeline.errors import PipelineError

FACTOR = int(os.environ.get("FUZZ", "0"))
LONGEST = 30  # seconds of computing; a loader that takes longer over a small file hangs

Edit = tuple[str, float, bytes]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "delete", "overwrite"]), st.floats(0, 1), st.binary(max_size=8)
    ),
    min_size=1,
    max_size=4,
)
ODD_TEXT = st.sampled_from(
    ["", " ", "\x00", "\u2028", "\ud83d", "é", "{", "[" * 2000, "9" * 5000, "1e999", "nan", "null"]
)
LEAVES = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5) | ODD_TEXT
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | ODD_TEXT, inner, max_size=3),
    max_leaves=6,
)


def examples(count: int) -> settings:
    """Return hypothesis' settings for `count` examples, or FUZZ times as many."""
    return settings(
        max_examples=count * max(FACTOR, 1),
        deadline=None,
        phases=(Phase.generate, Phase.shrink),  # to explain a failure takes minutes
        derandomize=not FACTOR,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def damaged(good: bytes, edits: list[Edit]) -> bytes:
    """Return `good` after each edit at its place, given as a share of the length."""
    data = bytearray(good)
    for kind, share, piece in edits:
        place = min(int(share * len(data)), max(len(data) - 1, 0))
        if kind == "flip" and data:
            data[place] ^= 1 << (piece[0] % 8 if piece else 0)
        elif kind == "cut":
            del data[place:]
        elif kind == "insert":
            data[place:place] = piece
        elif kind == "delete":
            del data[place : place + len(piece)]
        else:
            data[place : place + len(piece)] = piece
    return bytes(data)


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of everything in nested maps and lists but the whole."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inner:
        yield (*path, key)
        yield from places(value, (*path, key))


def changed(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy with the entry at `path` set to `value`, or removed where this is `...`."""
    copy = deepcopy(data)
    holder = copy
    for key in path[:-1]:
        holder = holder[key]
    if value is ...:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return copy


def changes_of(data: Any) -> st.SearchStrategy[Any]:
    """Return the strategy of `data` with one entry replaced or removed."""
    return st.builds(
        lambda path, value: changed(data, path, value), st.sampled_from([*places(data)]), JSON | st.just(...)
    )


@contextmanager
def in_time() -> Iterator[None]:
    """Raise TimeoutError in what takes longer than LONGEST."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"still at work after {LONGEST} s")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, LONGEST)  # of this process alone, however busy the machine
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def declared(read: Callable[[], Any], *named: str) -> Any:
    """Return what `read` returns, or None where it raised PipelineError; every other error is the test's.

    The error has a text that can be printed, with all of `named` in it.
    """
    try:
        with in_time():
            return read()
    except PipelineError as error:
        assert error.message.strip()
        error.message.encode("utf-8")
        for name in named:
            assert name in error.message, error.message
        return None
