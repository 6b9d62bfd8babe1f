"""The curve of a supervised training: a line for each optimizer step, as `dvc plots` reads it."""

import csv
from pathlib import Path

from ...storage.files import atomic_file


def write_curve(path: Path, rows: list[dict[str, float | None]]) -> None:
    """Write the steps' numbers as CSV, whole or not at all; a cell is empty where there is no number."""
    with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
