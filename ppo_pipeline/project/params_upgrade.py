"""What an older params.yaml lacks, put in with the values that keep what it did; all else in the file stays as it is.

Where things stand in the text, the YAML parser says; the text itself is changed in those places alone, so that
comments, order and layout are the user's own.
"""

from collections.abc import Iterator
from typing import Any

from ..settings.as_before import NO_VALUE, as_yaml, entry_class, section_of, value_before
from ..settings.former_names import FORMER
from ..settings.params import OVERRIDABLE, Params, Round
from ..settings.reward_sections import component_types

# New text in place of text[start:end]; parts of one are put behind each other. The third number orders those of one
# place: the deeper section's come first.
Edits = dict[tuple[int, int, int], list[str]]


def upgraded(text: str) -> tuple[str, list[str]]:
    """Return the text with former names renamed and missing settings added, and a line for each of these changes."""
    text, renamed = _changed(text, _renamed)
    text, added = _changed(text, _completed)
    return text, renamed + added


def _changed(text: str, change: Any) -> tuple[str, list[str]]:
    from ruamel.yaml import YAML

    edits: Edits = {}
    said = list(dict.fromkeys(change(text, YAML(typ="safe", pure=True).compose(text), edits)))
    for (start, end, _), parts in sorted(edits.items(), reverse=True):
        text = text[:start] + "".join(parts) + text[end:]
    return text, said


def _sections(node: Any, cls: Any = Params, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield path, class and YAML node of the whole map and of every section within that is there.

    A section among a round's settings has the class None, as it need not be whole.
    """
    yield path, cls, node
    for key, value in node.value:
        place = f"{path}.{key.value}" if path else key.value
        if cls is Round and key.value in OVERRIDABLE and _is_map(value):
            yield place, None, value
            yield from _components(value, place)
            continue
        field = next((f for name, f in cls.model_fields.items() if key.value in (name, f.alias)), None)
        inner = None if field is None else section_of(field)
        if field is None or inner is None or not _is_map(value):
            continue
        if entry_class(field) is not None:
            for name, entry in value.value:
                if _is_map(entry):
                    yield from _sections(entry, inner, f"{place}.{name.value}")
            continue
        yield from _sections(value, inner, place)
        yield from _components(value, place)


def _components(section: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield the reward components of a section, of whichever there are some in."""
    for key, value in section.value:
        for place, node in enumerate(value.value if key.value == "components" else ()):
            kind = next((v.value for k, v in node.value if k.value == "type"), None) if _is_map(node) else None
            if kind in component_types():
                yield f"{path}.components.{place}", component_types()[kind], node


def _renamed(text: str, root: Any, edits: Edits) -> Iterator[str]:
    """Note the edits that give former settings their names and values of today; yield a line for each."""
    from ruamel.yaml import YAML

    for path, _, node in _sections(root):
        section = path.rpartition(".")[2]
        for key, value in node.value:
            rule = FORMER.get(f"{section}.{key.value}")
            start, end = key.start_mark.index, value.end_mark.index
            was = text[value.start_mark.index : end]
            now = None if rule is None else rule(YAML(typ="safe", pure=True).load(was))
            if now is not None:
                lines = [f"{name}: {as_yaml(each)}" for name, each in now.items()]
                joint = ", " if node.flow_style else _line_end(text) + " " * key.start_mark.column
                edits[start, end, 0] = [joint.join(lines)]
                yield f"{path}: {text[start:end]} is {', '.join(lines)} now"


def _completed(text: str, root: Any, edits: Edits) -> Iterator[str]:
    """Note the edits that add missing settings; yield a line for each."""
    for path, cls, node in _sections(root):
        if cls is None:
            continue
        there = {key.value for key, _ in _pairs(node)}
        fields = [(field.alias or name, name, field) for name, field in cls.model_fields.items()]
        behind = -1
        for shown, name, field in fields:
            if there & {shown, name}:
                behind = next((i for i, (key, _) in enumerate(node.value) if key.value in (shown, name)), behind)
            elif field.is_required() and (value := value_before(field)) is not NO_VALUE:
                _insert(text, node, behind, shown, value, edits)
                yield f"added {f'{path}.{shown}' if path else shown}: {as_yaml(value)}"


def _insert(text: str, node: Any, behind: int, name: str, value: Any, edits: Edits) -> None:
    """Note a new entry of a map, behind its entry number `behind`; at the front for -1."""
    line = f"{name}: {as_yaml(value)}"
    if node.flow_style or not node.value:
        inside = node.start_mark.index + 1
        at = node.value[behind][1].end_mark.index if behind >= 0 else inside
        parts = edits.setdefault((at, at, 0), [])
        parts.append(f", {line}" if behind >= 0 or (parts and not node.value) else f"{line}, " if node.value else line)
        return
    end, key = _line_end(text), node.value[max(behind, 0)][0]
    if behind < 0:
        at = key.start_mark.index
        edits.setdefault((at, at, 0), []).append(f"{line}{end}{' ' * key.start_mark.column}")
        return
    at, before = _behind(text, node.value[behind][1])
    parts = edits.setdefault((at, at, -key.start_mark.column), [])
    before = "" if parts else before
    if key.start_mark.column == 0:
        apart = end if isinstance(value, dict) and (value or not parts) else ""  # sections stand apart
        if value and isinstance(value, dict):
            line = name + ":" + "".join(f"{end}  {k}: {as_yaml(v)}" for k, v in value.items())
        before += apart
    parts.append(f"{before}{' ' * key.start_mark.column}{line}{end}")


def _behind(text: str, node: Any) -> tuple[int, str]:
    """Return where the line begins that follows a value, and the line's end that has to come before it."""
    while isinstance(node.value, list) and node.value and not node.flow_style:
        node = node.value[-1][1] if isinstance(node.value[-1], tuple) else node.value[-1]
    end = len(text[: node.end_mark.index].rstrip())  # a text of several lines ends behind the empty lines after it
    at = text.find("\n", max(end, node.start_mark.index))
    return (len(text), _line_end(text)) if at < 0 else (at + 1, "")


def _pairs(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the entries of a map, those that `<<` takes over from another too."""
    for key, value in node.value:
        yield key, value
        if key.value == "<<":
            for other in [value] if _is_map(value) else value.value:
                yield from _pairs(other)


def _is_map(node: Any) -> bool:
    return bool(node.id == "mapping")


def _line_end(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"
