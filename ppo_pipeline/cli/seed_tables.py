"""What several seeds gave, as Markdown tables."""

from collections.abc import Iterator, Sequence

from ..project.seeds.spread import STATISTICS, Row, lineage
from ..report.metric_titles import MAIN

# Those by which learning is judged have a table of all rounds.
BY_ROUND = ("eval/scores", "eval/correct")


def markdown(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a table over the rounds for each metric of `BY_ROUND` that is there."""
    for metric in BY_ROUND:
        found = [row for row in rows if row.metric == metric]
        if found:
            yield _table(f"{MAIN[metric]} by round", ["round"], [[row.round] for row in found], found)


def end_of(rows: Sequence[Row]) -> str:
    """Return a table of the main metrics of the last round."""
    last = (lineage(rows) or ["no round"])[-1]
    found = [row for metric in MAIN for row in rows if (row.metric, row.round) == (metric, last)]
    return _table(f"Main metrics of {last}", ["metric"], [[str(MAIN[row.metric])] for row in found], found)


def _table(title: str, names: list[str], firsts: list[list[str]], rows: Sequence[Row]) -> str:
    header = [*names, "seeds", *STATISTICS]
    lines = [f"**{title}**", "", _line(header), _line(["---"] * len(names) + ["---:"] * (len(header) - len(names)))]
    for first, row in zip(firsts, rows, strict=True):
        lines.append(_line([*first, str(len(row.of_seeds)), *(f"{row.statistics[name]:.4g}" for name in STATISTICS)]))
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
