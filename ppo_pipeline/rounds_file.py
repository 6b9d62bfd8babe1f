"""Edit the `rounds` map of params.yaml; everything else in the file, comments too, stays as it is."""

import re
from io import StringIO
from pathlib import Path
from typing import Any

from .errors import PipelineError, nearest
from .files import whole_file
from .params import ROOT, load_params


class RoundsFile:
    """params.yaml, open for changes of its rounds. `save` checks the new text before it replaces the file."""

    def __init__(self, path: Path) -> None:
        from ruamel.yaml import YAML

        load_params(path)  # refuses a file that is already wrong
        self.path = path
        self.yaml = YAML(typ="safe", pure=True)
        self.text = path.read_text(encoding="utf-8")
        self.rounds: Any = self.yaml.load(self.text)["rounds"]

    def next_name(self) -> str:
        """Return the name after the highest of the form r001, r002, ..."""
        numbers = [int(m.group(1)) for name in self.rounds if (m := re.fullmatch(r"r(\d+)", name))]
        return f"r{max(numbers, default=0) + 1:03d}"

    def last(self) -> str:
        """Return the last round of the map, or r000."""
        return str(list(self.rounds)[-1]) if self.rounds else ROOT

    def add(self, name: str, parent: str, overrides: dict[str, Any] | None = None) -> None:
        """Append a round with its overrides, {section: {setting: value}} or {"seed": value}."""
        if name in self.rounds or name == ROOT:
            raise PipelineError(f"{self.path}: there is a round '{name}' already.")
        self._check_known(parent)
        self.rounds[name] = {"parent": parent, **(overrides or {})}

    def remove(self, name: str) -> None:
        """Take a round out of the map; one that others start from stays."""
        self._check_known(name)
        children = [child for child, entry in self.rounds.items() if entry["parent"] == name]
        if name == ROOT or children:
            raise PipelineError(
                f"{self.path}: '{name}' is the parent of {', '.join(children) or 'other rounds'}; remove those first."
            )
        del self.rounds[name]

    def _check_known(self, name: str) -> None:
        known = [ROOT, *self.rounds]
        if name not in known:
            raise PipelineError(f"{self.path}: no round '{name}'.{nearest(name, known)}")

    def save(self) -> None:
        """Write the file, whole or not at all, once its new text has been read and checked as params.yaml is."""
        text = self._new_text()
        with whole_file(self.path) as partial:
            partial.write_text(text, encoding="utf-8")
            try:
                load_params(partial)
            except PipelineError as error:
                raise PipelineError(str(error.message).replace(str(partial), str(self.path))) from None

    def _new_text(self) -> str:
        """Return the old text with the lines of the rounds map replaced: kept lines as they are, new ones added."""
        lines = self.text.splitlines(keepends=True)
        start = next(i for i, line in enumerate(lines) if re.match(r"rounds\s*:", line))
        end = next((i for i in range(start + 1, len(lines)) if re.match(r"[^\s#]", lines[i])), len(lines))
        if self.yaml.load("".join(lines[start:end]))["rounds"] is None or not lines[start].strip().endswith(":"):
            return self._dumped(lines, start, end)  # an empty map, or one in flow style on the key's line
        kept, old = [], {}
        entry = None
        for line in lines[start + 1 : end]:
            found = re.match(r"(\s+)([A-Za-z][\w-]*)\s*:", line)
            if found and (entry is None or len(found.group(1)) <= len(entry[1])):
                entry = (found.group(2), found.group(1))
                old[entry[0]] = entry[1]
            if entry is None or entry[0] in self.rounds:
                kept.append(line)
        if kept and not kept[-1].endswith("\n"):
            kept[-1] += "\n"
        indent = next(iter(old.values()), "  ")
        trailing = kept[::-1]
        blank = 0
        while blank < len(trailing) and not trailing[blank].strip():
            blank += 1
        body, gap = kept[: len(kept) - blank], kept[len(kept) - blank :]
        new = [f"{indent}{name}: {_flow(value)}\n" for name, value in self.rounds.items() if name not in old]
        return "".join([*lines[: start + 1], *body, *new, *gap, *lines[end:]])

    def _dumped(self, lines: list[str], start: int, end: int) -> str:
        new = [f"  {name}: {_flow(value)}\n" for name, value in self.rounds.items()]
        head = "rounds:\n" if new else "rounds: {}\n"
        return "".join([*lines[:start], head, *new, *lines[end:]])


def _flow(value: Any) -> str:
    """Return `value` as YAML on one line, {key: value}."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = True
    yaml.width = 10_000
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    out = StringIO()
    yaml.dump(value, out)
    return out.getvalue().strip()


def parse_value(text: str) -> Any:
    """Return a setting's value as YAML reads it: 0.1, true, null, text."""
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(text)


def parse_overrides(entries: list[str]) -> dict[str, Any]:
    """Return {section: {setting: value}} of entries like advantage.kl_coef=0.1 (or seed=1)."""
    overrides: dict[str, Any] = {}
    for entry in entries:
        path, equals, value = entry.partition("=")
        if not equals or path.count(".") > 1:
            raise PipelineError(f"'{entry}': write it as section.setting=value, e.g. advantage.kl_coef=0.1.")
        section, dot, setting = path.partition(".")
        if dot:
            overrides.setdefault(section, {})[setting] = parse_value(value)
        else:
            overrides[section] = parse_value(value)
    return overrides
