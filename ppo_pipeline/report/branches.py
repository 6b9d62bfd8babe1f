"""The rounds as lines: the one that leads to the last round, and a line for each branch that leaves it."""

from dataclasses import dataclass
from typing import Any

from ..settings.params import ROOT, Params, Round


@dataclass(frozen=True)
class Line:
    """A chain of rounds, each the parent of the next.

    start: the round that the first one starts from; None for the main line, which begins at r000.
    rounds: the line's own rounds in order. label: what tells it from the other lines.
    """

    start: str | None
    rounds: list[str]
    label: str


def lines_of(params: Params) -> list[Line]:
    """Return every round in exactly one line: first the way to the last round, then the branches as params has them."""
    rounds = params.all_rounds
    parents = {entry.parent for entry in rounds.values()}
    main = [ROOT, *params.lineage(params.last_round)]
    lines, placed = [Line(None, main, _span(main) + changes(rounds, main[1:]))], set(main)
    for leaf in rounds:
        if leaf in parents or leaf in placed:
            continue
        own = [name for name in params.lineage(leaf) if name not in placed]
        placed |= set(own)
        start = rounds[own[0]].parent
        lines.append(Line(start, own, f"{_span(own)} from {start}{changes(rounds, own)}"))
    return lines


def changes(rounds: dict[str, Round], names: list[str]) -> str:
    """Return `: settings` that the named rounds change for themselves, each once; empty where there are none."""
    found = list(dict.fromkeys(text for name in names if (text := overrides(rounds[name]))))
    return f": {'; '.join(found[:3])}{' ...' if len(found) > 3 else ''}" if found else ""


def overrides(entry: Round) -> str:
    """Return the settings that a round changes for itself, as `section.setting=value, ...`."""
    found: list[str] = []
    for section, values in entry.model_dump(exclude={"parent"}, exclude_defaults=True).items():
        if isinstance(values, dict):
            found += [f"{section}.{name}={_short(value)}" for name, value in values.items()]
        else:
            found.append(f"{section}={_short(values)}")
    return ", ".join(found)


def _span(rounds: list[str]) -> str:
    return rounds[0] if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else "..."
