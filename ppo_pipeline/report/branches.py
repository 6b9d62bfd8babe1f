"""The rounds as lines with labels: the main line, and a line for each branch."""

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ..settings.lines import span
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
    """Return every round in exactly one line: first the main line from r000 on, then the branches."""
    rounds = params.all_rounds
    main, *branches = params.lines or [[]]
    found = [Line(None, [ROOT, *main], span([ROOT, *main]) + changes(rounds, main))]
    for own in branches:
        start = rounds[own[0]].parent
        found.append(Line(start, own, f"{span(own)} from {start}{changes(rounds, own)}"))
    return found


def changes(rounds: dict[str, Round], names: list[str]) -> str:
    """Return `: settings` that the named rounds change for themselves, and in which; empty where there are none.

    Rounds that follow each other and change the same are told together.
    """
    groups = [(text, list(group)) for text, group in groupby(names, key=lambda name: overrides(rounds[name]))]
    found = [text if len(group) == len(names) else f"{text} in {span(group)}" for text, group in groups if text]
    return f": {'; '.join(found[:3])}{' ...' if len(found) > 3 else ''}" if found else ""


def overrides(entry: Round) -> str:
    """Return the settings that a round changes for itself, as `section.setting=value, ...`."""
    found: list[str] = []
    for section, values in entry.model_dump(exclude={"parent", "main"}, exclude_defaults=True).items():
        if isinstance(values, dict):
            found += [f"{section}.{name}={_short(value)}" for name, value in values.items()]
        else:
            found.append(f"{section}={_short(values)}")
    return ", ".join(found)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else "..."
