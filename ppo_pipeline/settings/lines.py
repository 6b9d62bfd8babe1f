"""The rounds as lines: which of the rounds that start from one round goes on with its line, and which branch off.

One rule for all that draws, names or continues a line: the one that is marked `main: true`, or else the first, as
params.yaml has them (sealed rounds before open ones). So a round that is added, or a branch that goes on, never turns
the main line: whoever wants that marks a round.
"""

from collections.abc import Collection, Iterable, Mapping

ROOT = "r000"


def goes_on(parents: Mapping[str, str], marked: Collection[str] = ()) -> dict[str, str]:
    """Return the round that goes on with the line of each round; none for one that no round starts from.

    parents: of each trained round, in order. marked: rounds with `main: true`.
    """
    found: dict[str, str] = {}
    for name, parent in parents.items():
        if parent not in found or name in marked:
            found[parent] = name
    return found


def lines(parents: Mapping[str, str], marked: Collection[str] = ()) -> list[list[str]]:
    """Return every trained round in exactly one line: the main line, from r000 on, and then each branch."""
    following = goes_on(parents, marked)
    branches = [name for name, parent in parents.items() if following[parent] != name]
    starts = [following[ROOT], *branches] if ROOT in following else branches
    return [_from(name, following) for name in starts]


def main_line(parents: Mapping[str, str], marked: Collection[str] = ()) -> list[str]:
    """Return the trained rounds of the main line; empty where nothing starts from r000."""
    return _from(ROOT, goes_on(parents, marked))[1:]


def _from(start: str, following: Mapping[str, str]) -> list[str]:
    line = [start]
    while line[-1] in following:
        line.append(following[line[-1]])
    return line


def twice_marked(parents: Mapping[str, str], marked: Iterable[str]) -> tuple[str, str] | None:
    """Return two marked rounds that start from one round; None where there are none."""
    seen: dict[str, str] = {}
    for name in marked:
        if (other := seen.setdefault(parents[name], name)) != name:
            return other, name
    return None


def span(rounds: list[str]) -> str:
    """Return the rounds of a line, or a part of one, as text: r003 to r005."""
    return rounds[0] if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}"
