"""Arrays that a stage fills batch by batch, kept so that a killed one repeats no finished batch."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from .snapshots import Snapshots


class KeptBatches:
    """Goes through `batches`, once for each name in `passes`; `arrays` are what the caller fills on the way.

    With `snapshots`, the finished batches of the newest one are in `arrays` from the start and are left out. As a
    context manager it makes a last snapshot when an error or Ctrl-C ends the work.
    """

    def __init__(
        self,
        snapshots: Snapshots | None,
        arrays: dict[str, np.ndarray],
        batches: Sequence[Any],
        passes: Sequence[str] = ("all",),
    ) -> None:
        self.snapshots, self.arrays, self.batches = snapshots, arrays, batches
        self.done: dict[str, set[int]] = {name: set() for name in passes}
        self.unsaved = 0
        if snapshots is not None:
            snapshots.load(self._read)

    def left(self, which: str = "all") -> list[int]:
        """Return the numbers of the batches of a pass that are not done."""
        return [number for number in range(len(self.batches)) if number not in self.done[which]]

    def finish(self, number: int, which: str = "all") -> None:
        """Take a batch for done, whose numbers are in `arrays`; batches may be done in any order."""
        self.done[which].add(number)
        self.unsaved += 1
        if self.snapshots is not None and self.snapshots.due():
            self._save()

    def remaining(self, which: str = "all") -> Iterator[Any]:
        """Yield each batch of a pass that is not done; it counts as done when the next one is asked for."""
        for number in self.left(which):
            yield self.batches[number]
            self.finish(number, which)

    def __enter__(self) -> "KeptBatches":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None and self.snapshots is not None and self.unsaved:
            self._save()

    def _save(self) -> None:
        def write(folder: Path) -> None:
            save_file(self.arrays, folder / "arrays.safetensors")
            done = {name: sorted(numbers) for name, numbers in self.done.items()}
            (folder / "done.json").write_text(json.dumps([done, len(self.batches)]), encoding="utf-8")

        assert self.snapshots is not None
        self.snapshots.save(write)
        self.unsaved = 0

    def _read(self, folder: Path) -> str:
        arrays = load_file(folder / "arrays.safetensors")
        done, count = json.loads((folder / "done.json").read_text(encoding="utf-8"))
        shapes = {name: (array.shape, array.dtype) for name, array in arrays.items()}
        if (count, shapes, [*done]) != (
            len(self.batches), {name: (a.shape, a.dtype) for name, a in self.arrays.items()}, [*self.done],
        ):  # fmt: skip
            raise ValueError("it is of other batches")
        for name, array in arrays.items():
            self.arrays[name][...] = array
        self.done = {name: set(numbers) for name, numbers in done.items()}
        return f"{sum(map(len, done.values()))} of {count * len(done)} batches done"
