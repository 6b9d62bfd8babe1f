"""What is wrong with a text that is no YAML, said for the line where a person would mend it.

The parser stops where it no longer understands, often a line behind the mistake, and says so in terms of YAML's
grammar. Here are the mistakes that people make in settings: indentation, colons, brackets, quotes, tabs.
"""

import re
from typing import Any

SHOWN = 100  # characters of a line


def described(text: str, error: Exception) -> str:
    """Return ` in line 3: what was expected`, the line itself and a mark below the place."""
    lines = text.splitlines() or [""]
    place, column, said = _fault(lines, error)
    if place is None:
        return f": {said}"
    place = min(place, len(lines) - 1)
    shown = re.sub(r"://[^@\s]*@", "://...@", lines[place].replace("\t", "→"))[:SHOWN]  # no passwords
    number = f"{place + 1:5} | "
    return f" in line {place + 1}: {said}\n{number}{shown}\n{' ' * (len(number) - 2)}| {' ' * min(column, SHOWN)}^"


def _fault(lines: list[str], error: Any) -> tuple[int | None, int, str]:
    """Return the line and column, from 0, of the likely mistake, and what is wrong with it; None for no place."""
    conflict = next((i for i, line in enumerate(lines) if line.startswith(("<<<<<<< ", ">>>>>>> "))), None)
    if conflict is not None:
        return conflict, 0, "a merge conflict of git; keep one of the two sides and take out git's three lines."
    mark: Any = getattr(error, "problem_mark", None)
    context: Any = getattr(error, "context_mark", None)
    problem = str(getattr(error, "problem", "") or "")
    if mark is None:
        return _without_a_mark(lines, error)
    here, column = int(mark.line), int(mark.column)
    if "mapping values are not allowed" in problem:
        return _unexpected_colon(lines, here, column)
    if "could not find expected ':'" in problem:
        return _no_colon(lines, context.line)
    if problem.startswith("expected <block end>") and column == _indent(lines[min(here, len(lines) - 1)]):
        return here, column, _indentation(lines, here)
    if problem.startswith("expected <block end>") and "found '" in problem and problem[-2] in "}]":
        return here, column, f"nothing is open that this '{problem[-2]}' would close."
    if problem.startswith("expected ',' or"):
        opened = lines[context.line][context.column]
        return context.line, context.column, f"the '{opened}' is not closed, or a comma is missing behind it."
    if "end of stream" in problem and context is not None:
        return context.line, context.column, "the quote is not closed."
    if "duplicate key" in problem:
        return here, column, _twice(lines, context.line, here)
    if "'\\t'" in problem:
        return here, column, "a tab (→); YAML indents with spaces alone."
    if "that cannot start any token" in problem or "undefined alias" in problem:
        return here, column, f"a text that begins with '{lines[here][column]}' needs quotes around it."
    if "unknown escape" in problem:
        return here, column, "in double quotes a backslash begins an escape; put the text in single quotes."
    if "another document" in problem:
        return here, column, "`---` begins a second document; all settings are in one."
    return here, column, f"{problem}." if problem else str(error).splitlines()[0]


def _without_a_mark(lines: list[str], error: Any) -> tuple[int | None, int, str]:
    if hasattr(error, "position"):  # a character that YAML does not allow
        before = "\n".join(lines)[: error.position]
        return before.count("\n"), error.position - before.rfind("\n") - 1, "a control character; take it out."
    mark = _no_value("\n".join(lines))
    return (None, 0, str(error)) if mark is None else (mark.line, mark.column, f"{error}; put quotes around a text.")


def _no_value(text: str) -> Any:
    """Return where a value stands that its type has none of, such as the date 2024-13-45; None where all are some."""
    from ruamel.yaml import YAML

    nodes = [YAML(typ="safe", pure=True).compose(text)]
    while nodes:
        node = nodes.pop()
        if not isinstance(node.value, str):
            nodes += [each for item in node.value for each in (item if isinstance(item, tuple) else (item,))]
            continue
        try:
            YAML(typ="safe", pure=True).load(text[node.start_mark.index : node.end_mark.index])
        except (ValueError, KeyError):
            return node.start_mark
    return None


def _unexpected_colon(lines: list[str], here: int, column: int) -> tuple[int, int, str]:
    """`a: b: c`, or a line that goes on with the value of the one above: indented too far, or that one has no colon."""
    if re.search(r":\s", lines[here][:column]):
        return here, column, "a second ': ' in one line; put quotes around a text that has one."
    above = _above(lines, here)
    if above is None:
        return here, column, "expected `name: value`."
    if not re.search(r":(\s|$)", lines[above]):
        return _no_colon(lines, above)
    by, expected = _indent(lines[here]), _indent(lines[above])
    return here, by, f"indented by {_spaces(by)}; expected {expected}, as line {above + 1} above, which has its value."


def _no_colon(lines: list[str], here: int) -> tuple[int, int, str]:
    said = "expected `name: value` (a colon and a space), or `name:` above lines that are indented further."
    return here, _indent(lines[here]), said


def _indentation(lines: list[str], here: int) -> str:
    """Return which indentations would fit a line: those of the lines above that are still open."""
    by, above = _indent(lines[here]), _above(lines, here)
    fits: list[int] = []
    while above is not None:
        line = lines[above]
        starts = [_indent(line)]
        if line.lstrip().startswith("- "):  # the entry behind the dash is a block of its own
            starts.insert(0, starts[0] + len(line.lstrip()) - len(line.lstrip()[1:].lstrip()))
        fits += [start for start in starts if not fits or start < min(fits)]
        above = _above(lines, above)
    if by in fits and not lines[here].lstrip().startswith("- "):
        return f"a list's entry begins with `- `; settings of the entry before it are indented by {fits[0]}."
    return f"indented by {_spaces(by)}; expected {', or '.join(str(each) for each in fits[:3])}, as lines above."


def _twice(lines: list[str], start: int, here: int) -> str:
    """Say that a name stands twice in the map that begins in line `start`."""
    name = lines[here].partition(":")[0]
    first = next((i + 1 for i in range(start, here) if lines[i].partition(":")[0] == name), None)
    where = f", first in line {first}" if first else ""
    return f"`{name.strip()}` stands twice{where}; keep one of the two."


def _above(lines: list[str], here: int) -> int | None:
    """Return the nearest line above that holds more than white space or a comment."""
    return next((i for i in range(here - 1, -1, -1) if lines[i].split("#")[0].strip()), None)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _spaces(count: int) -> str:
    return "1 space" if count == 1 else f"{count} spaces"
