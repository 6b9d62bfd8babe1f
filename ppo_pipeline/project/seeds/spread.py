"""How a metric spreads over seeds: median, quartiles, least and greatest of each round; kept as CSV."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from ...errors import PipelineError
from ...settings.lines import ROOT, main_line
from ...storage.files import atomic_file

STATISTICS = ("median", "q1", "q3", "min", "max")
COLUMNS = ("metric", "round", "parent", "depth", "n", *STATISTICS)
SEED = "seed_"  # in front of a seed's own column


@dataclass(frozen=True)
class Row:
    """A metric of one round. of_seeds: its number with each seed that has it; the statistics are over these.

    depth: steps from the untrained policy, which has no parent.
    """

    metric: str
    round: str
    parent: str
    depth: int
    of_seeds: dict[int, float]
    statistics: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        """Compute the statistics."""
        object.__setattr__(self, "statistics", statistics(list(self.of_seeds.values())))


def statistics(values: Sequence[float]) -> dict[str, float]:
    """Return median, quartiles, least and greatest of at least one number.

    A quartile between two numbers is interpolated linearly, numpy's default: the quantile p of n sorted numbers is at
    place p (n - 1), counted from 0 (type 7 of Hyndman and Fan, "Sample quantiles in statistical packages", 1996).
    """
    places = {"median": 0.5, "q1": 0.25, "q3": 0.75, "min": 0.0, "max": 1.0}
    return {name: float(np.quantile(values, places[name])) for name in STATISTICS}


def spread(metrics: dict[int, dict[str, dict[str, Any]]], parents: dict[str, str]) -> list[Row]:
    """Return a row per metric and round, metrics by name and rounds as in `parents`.

    metrics: {seed: {round: {metric: number}}}. parents: {round: parent}, that of the untrained policy empty.
    What is no number is left out; a metric that some seeds lack has the numbers of the others.
    """
    names = {name for rounds in metrics.values() for numbers in rounds.values() for name in numbers}
    rows = []
    for metric in sorted(names):
        for name, parent in parents.items():
            found = {seed: rounds.get(name, {}).get(metric) for seed, rounds in metrics.items()}
            numbers = {seed: float(value) for seed, value in found.items() if _is_number(value)}
            if numbers:
                rows.append(Row(metric, name, parent, _depth(name, parents), numbers))
    return rows


def _depth(name: str, parents: dict[str, str]) -> int:
    steps = 0
    while name := parents.get(name, ""):
        steps += 1
    return steps


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def write_spread(path: Path, rows: Iterable[Row], seeds: Sequence[int]) -> None:
    """Write the rows as CSV, whole or not at all: `COLUMNS` and a column per seed, empty where it has no number."""
    with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=[*COLUMNS, *(f"{SEED}{seed}" for seed in seeds)], restval="")
        writer.writeheader()
        for row in rows:
            own = {f"{SEED}{seed}": number for seed, number in row.of_seeds.items()}
            about = {"metric": row.metric, "round": row.round, "parent": row.parent, "depth": row.depth}
            writer.writerow(about | {"n": len(row.of_seeds)} | row.statistics | own)


def read_spread(path: Path) -> list[Row]:
    """Return the rows of such a file; the statistics are computed anew of the seeds' own numbers.

    Raises PipelineError for a file that is none, by its line.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        seeds = [name for name in reader.fieldnames or () if name.startswith(SEED)]
        try:
            return [
                Row(line["metric"], line["round"], line["parent"], int(line["depth"]), _of_seeds(line, seeds))
                for line in reader
            ]
        except (KeyError, ValueError, TypeError, IndexError, csv.Error):
            raise PipelineError(
                f"{path}, line {reader.line_num}: not as `ppo-pipeline seeds` writes it; delete the file, and the same "
                "command makes it anew of the seeds' experiments."
            ) from None


def lineage(rows: Sequence[Row]) -> list[str]:
    """Return the rounds of the main line that have numbers, from the untrained policy on."""
    parents = {row.round: row.parent for row in rows}
    way = [ROOT, *main_line({name: parent for name, parent in parents.items() if name != ROOT})]
    return [name for name in way if name in parents]


def _of_seeds(line: dict[str, str], seeds: list[str]) -> dict[int, float]:
    return {int(name.removeprefix(SEED)): float(line[name]) for name in seeds if line[name]}
