"""What several seeds gave, as Markdown tables."""

from collections.abc import Iterator, Sequence

from ..project.seeds.spread import STATISTICS, Row, lineage

# With the words for them. The first ones have a table of all rounds, since learning is judged by them.
BY_ROUND = {"eval/scores": "Held-out score", "eval/correct": "Held-out right answers"}
MAIN = {
    **BY_ROUND,
    "objective/scores": "Training score",
    "objective/correct": "Training right answers",
    "objective/kl": "KL to the base (nats)",
    "objective/entropy": "Entropy (nats a token)",
    "val/response_length": "Response length (tokens)",
    "policy/clipfrac": "Clipped tokens",
}


def markdown(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a table over the rounds for each metric of `BY_ROUND` that is there."""
    for metric, title in BY_ROUND.items():
        found = [row for row in rows if row.metric == metric]
        if found:
            yield _table(f"{title} by round", ["round"], [[row.round] for row in found], found)


def end_of(rows: Sequence[Row]) -> str:
    """Return a table of the main metrics of the last round."""
    last = (lineage(rows) or ["no round"])[-1]
    found = [row for metric in MAIN for row in rows if (row.metric, row.round) == (metric, last)]
    return _table(f"Main metrics of {last}", ["metric"], [[MAIN[row.metric]] for row in found], found)


def _table(title: str, names: list[str], firsts: list[list[str]], rows: Sequence[Row]) -> str:
    header = [*names, "seeds", *STATISTICS]
    lines = [f"**{title}**", "", _line(header), _line(["---"] * len(names) + ["---:"] * (len(header) - len(names)))]
    for first, row in zip(firsts, rows, strict=True):
        lines.append(_line([*first, str(len(row.of_seeds)), *(f"{row.statistics[name]:.4g}" for name in STATISTICS)]))
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
