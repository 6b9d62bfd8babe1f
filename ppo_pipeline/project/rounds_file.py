"""Edit the `rounds` map of params.yaml; everything else in the file, comments too, stays as it is."""

import re
from collections.abc import Iterable
from io import StringIO
from pathlib import Path
from typing import Any

from ..errors import PipelineError, nearest
from ..settings.lines import span
from ..settings.params import ROOT, SEALED, load_params, read_sealed
from .params_file import write_checked


class RoundsFile:
    """params.yaml, open for changes of its rounds. `save` checks the new text before it replaces the file.

    Sealed rounds are known as parents and by name, and cannot be changed. `settled=False` opens a file some of
    whose rounds are sealed at the same time, as they are halfway through sealing.
    """

    def __init__(self, path: Path, settled: bool = True) -> None:
        from ruamel.yaml import YAML

        load_params(path, settled=settled)  # refuses a file that is already wrong
        self.path, self.settled = path, settled
        self.sealed = read_sealed(path.parent / SEALED)
        self.yaml = YAML(typ="safe", pure=True)
        self.text = path.read_bytes().decode("utf-8")  # read_text would turn CRLF into LF
        self.rounds: Any = self.yaml.load(self.text)["rounds"]

    def next_name(self) -> str:
        """Return the name after the highest of the form r001, r002, ..."""
        numbers = [int(m.group(1)) for name in self._names() if (m := re.fullmatch(r"r(\d+)", name))]
        return f"r{max(numbers, default=0) + 1:03d}"

    def only_end(self) -> str:
        """Return the round that the one line of rounds ends in; PipelineError, with the lines, where there are several.

        r000 where there is no round.
        """
        params = load_params(self.path, settled=self.settled)
        found = params.lines
        if len(found) > 1:
            main, *branches = found
            ends = [f"{line[-1]} ({span(line)}, from {params.parents[line[0]]})" for line in branches]
            raise PipelineError(
                f"{self.path}: {len(found)} lines of rounds end: {main[-1]} ({span(main)}, the main line), "
                f"{', '.join(ends)}; say which one goes on: `--parent {main[-1]}` or another. Nothing was changed."
            )
        return found[0][-1] if found else ROOT

    def _names(self) -> list[str]:
        return [ROOT, *self.sealed, *map(str, self.rounds)]

    def add(self, name: str, parent: str, overrides: dict[str, Any] | None = None, main: bool = False) -> None:
        """Append a round with its overrides, {section: {setting: value}} or {"seed": value}; main: mark it so."""
        if name in self._names():
            raise PipelineError(f"{self.path}: there is a round '{name}' already.")
        self._check_known(parent)
        self.rounds[name] = {"parent": parent, **({"main": True} if main else {}), **(overrides or {})}

    def remove(self, name: str) -> None:
        """Take a round out of the map; one that others start from stays."""
        self._check_known(name)
        if name in self.sealed:
            raise PipelineError(f"{self.path}: '{name}' is sealed; `ppo-pipeline rounds unseal {name}` comes first.")
        children = [child for child, entry in self.rounds.items() if entry["parent"] == name]
        if name == ROOT or children:
            raise PipelineError(
                f"{self.path}: '{name}' is the parent of {', '.join(children) or 'other rounds'}; remove those first."
            )
        del self.rounds[name]

    def take_out(self, names: Iterable[str]) -> None:
        """Take rounds out whatever starts from them: they have been sealed."""
        self.rounds = {name: entry for name, entry in self.rounds.items() if name not in set(names)}

    def put_first(self, entries: dict[str, Any]) -> None:
        """Put unsealed rounds before the others, so that the last round stays the last."""
        self.rounds = {**entries, **self.rounds}

    def _check_known(self, name: str) -> None:
        known = self._names()
        if name not in known:
            raise PipelineError(f"{self.path}: no round '{name}'.{nearest(name, known)}")

    def save(self) -> None:
        """Write the file, whole or not at all, once its new text has been read and checked as params.yaml is."""
        write_checked(self.path, self._new_text(), self.settled)

    def _new_text(self) -> str:
        """Return the old text without the removed rounds' lines and with the new rounds' lines; all else as it is.

        Where an entry begins and ends, the YAML parser says. Comment lines stay, those above a removed round too.
        """
        root = self.yaml.compose(self.text)
        node = next(value for key, value in root.value if key.value == "rounds")
        if node.flow_style:
            return self._new_flow_text(node)
        lines = self.text.splitlines(keepends=True)
        end = "\r\n" if lines[0].endswith("\r\n") else "\n"
        old = {key.value: range(key.start_mark.line, _last_line(value) + 1) for key, value in node.value}
        last = max(line for span in old.values() for line in span)
        if not lines[last].endswith("\n"):
            lines[last] += end
        indent = " " * node.value[0][0].start_mark.column
        new = {name: f"{indent}{name}: {flow(value)}{end}" for name, value in self.rounds.items() if name not in old}
        kept = [place for place, name in enumerate(self.rounds) if name in old]
        front = [name for place, name in enumerate(self.rounds) if name in new and kept and place < kept[0]]
        behind = "".join(text for name, text in new.items() if name not in front)
        lines[last] += behind
        for name, places in old.items():
            for line in places if name not in self.rounds else ():
                lines[line] = behind if line == last else ""
        first = next(iter(old.values())).start
        lines[first] = "".join(new[name] for name in front) + lines[first]
        if not self.rounds:
            start = next(key for key, _ in root.value if key.value == "rounds").start_mark.line
            lines[start] = lines[start].replace(":", ": {}", 1)
        return "".join(lines)

    def _new_flow_text(self, node: Any) -> str:
        """The same for a map in flow style, {r001: {parent: r000}}: only what is between its braces changes."""
        text, start, end = self.text, node.start_mark.index, node.end_mark.index
        kept = {k.value: text[k.start_mark.index : v.end_mark.index] for k, v in node.value if k.value in self.rounds}
        entries = [kept.get(name, f"{name}: {flow(value)}") for name, value in self.rounds.items()]
        return f"{text[:start]}{{{', '.join(entries)}}}{text[end:]}"


def _last_line(node: Any) -> int:
    """Return the last line of a node; a block's own end mark stands behind the comments that follow it."""
    if isinstance(node.value, list) and node.value and not node.flow_style:
        inner = node.value[-1]
        return _last_line(inner[1] if isinstance(inner, tuple) else inner)
    return int(node.end_mark.line)


def flow(value: Any) -> str:
    """Return `value` as YAML on one line, {key: value}."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = True
    yaml.width = 10_000
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    for as_it_is in (True, False):  # ruamel reads some characters, such as U+0085, as others unless they are escaped
        yaml.allow_unicode = as_it_is
        out = StringIO()
        yaml.dump(value, out)
        text = out.getvalue().strip()
        if yaml.load(text) == value:
            break
    return text


def parse_value(text: str) -> Any:
    """Return a setting's value as YAML reads it: 0.1, true, null, text."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, KeyError, RecursionError):
        raise PipelineError(f"'{text}': not a value that YAML can read; put text in quotes.") from None


def parse_overrides(entries: list[str]) -> dict[str, Any]:
    """Return {section: {setting: value}} of entries like advantage.kl_coef=0.1 (or seed=1)."""
    overrides: dict[str, Any] = {}
    for entry in entries:
        path, equals, value = entry.partition("=")
        if not equals or path.count(".") > 1:
            raise PipelineError(f"'{entry}': write it as section.setting=value, e.g. advantage.kl_coef=0.1.")
        section, dot, setting = path.partition(".")
        if not isinstance(overrides.get(section, {}), dict):
            raise PipelineError(f"'{entry}': '{section}' has a value already; it is a setting or a section, not both.")
        if dot:
            overrides.setdefault(section, {})[setting] = parse_value(value)
        else:
            overrides[section] = parse_value(value)
    return overrides
