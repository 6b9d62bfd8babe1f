"""The file of a person's choices: a line is there as soon as the choice is made."""

import json
import os
from pathlib import Path
from typing import Any

from ..errors import PipelineError
from ..prompts.files import NOT_JSON, parse


class Judgements:
    """Choices by `pair_id`, in the order in which they were made, and their JSONL file, which may not be there yet.

    A line that a killed process left half is dropped. Raises PipelineError for a file that is none of this class's, and
    where another process writes to it meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        self._starts: list[int] = []
        data = path.read_bytes() if path.is_file() else b""
        self._end = data.rfind(b"\n") + 1
        if self._end < len(data):
            os.truncate(path, self._end)
        start = 0
        for number, line in enumerate(data[: self._end].splitlines(keepends=True), 1):
            self._take(self._parsed(line, number), start)
            start += len(line)

    def add(self, row: dict[str, Any]) -> None:
        """Append a choice to the file, on disk when this returns."""
        self._check()
        line = (json.dumps(row, ensure_ascii=False, default=str) + "\n").encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab", buffering=0) as file:
            file.write(line)
            os.fsync(file.fileno())
        self._take(row, self._end)
        self._end += len(line)

    @property
    def last(self) -> str | None:
        """The pair of the last choice; None where there is none."""
        return next(reversed(self.rows), None)

    def undo(self) -> None:
        """Take the last choice back."""
        self._check()
        self.rows.popitem()
        self._end = self._starts.pop()
        os.truncate(self.path, self._end)

    def _take(self, row: dict[str, Any], start: int) -> None:
        self.rows[row["pair_id"]] = row
        self._starts.append(start)

    def _check(self) -> None:
        if (self.path.stat().st_size if self.path.is_file() else 0) != self._end:
            raise PipelineError(f"{self.path}: changed by another process; start again, each person with an --out.")

    def _parsed(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = parse(line.decode())
        except NOT_JSON:
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("pair_id"), str) or row["pair_id"] in self.rows:
            raise PipelineError(f"{self.path}, row {number}: no choice of `ppo-pipeline judge`; choose another --out.")
        return row
