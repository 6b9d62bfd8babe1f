"""Looks after a run that goes on: says when a stage has ended."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ..settings.params import SEALED

LOOKS = 2.0  # seconds between two looks
SHARE = 5  # so many times as long as an answer took there is no other, since stages work beside it
RELOAD = 20.0  # seconds that a page is left alone before it loads itself anew

State = dict[str, tuple[int, int]]


def watch(folders: Sequence[Path], answer: Callable[[], None], sleep: Callable[[float], None] = time.sleep) -> None:
    """Call `answer` now, and again whenever metrics or settings of one of the folders have changed; never return.

    A stage writes its metrics last, so its tables are there by then.
    """
    seen: State | None = None
    while True:
        pause, now = LOOKS, state(folders)
        if now != seen:
            began = time.monotonic()
            answer()
            seen, pause = now, max(LOOKS, SHARE * (time.monotonic() - began))
        sleep(pause)


def state(folders: Sequence[Path]) -> State:
    """Return time and size of the files that change as a run goes on."""
    found: State = {}
    for folder in folders:
        for path in [
            folder / "params.yaml",
            folder / SEALED,
            *folder.glob("metrics/**/*.json"),
            *folder.glob("metrics/**/*.csv"),
        ]:
            try:
                about = path.stat()
            except FileNotFoundError:  # renewed at this very moment, or not there yet
                continue
            found[str(path)] = (about.st_mtime_ns, about.st_size)
    return found
