"""Which project files decide what a stage writes, and a fingerprint of each: an edit of one reruns the stage.

What cannot change a byte of its outputs does not count: comments, docstrings and layout; words, which are the texts in
`raise` statements and in calls of `result(...)`, and the text of `stage.done(text, numbers)`; and the rooms that
WITHOUT_A_PART and BY_ITS_FILE name.
"""

import ast
import hashlib
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent

WITHOUT_A_PART = {
    "cli": "what people call, and no stage does",
    "report": "the same",
    "engine": "where a stage runs: its bits are the same everywhere",
    "resume": "a stage that goes on from a snapshot ends with the bits of one that never stopped",
    "observe": "progress, trackers and logs/: none of it is hashed",
    "errors": "how a stage fails, and then it writes nothing",
}
BY_ITS_FILE = {
    "settings": "values come from data/settings/ or params.yaml, where DVC sees each change",
    "project": "how a stage starts, and the paths of files whose content DVC sees",
}
STILL_COUNTED = ("project/stage_run.py",)  # writes the metrics of a stage of a round
MADE_OF_THEM = ("settings", "source", "summary")  # what these stages write is computed in those two rooms
FOUND_BY_NAME = ("rewards", "maths/estimators")  # folders where a file may load any other one: they count whole
C_COMMENT = re.compile(r"""("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|/\*.*?\*/|//(?:\\\n|[^\n])*""", re.DOTALL)


def stages_folder() -> Path:
    """Return the folder of the stages' scripts: beside this package in a clone, inside it in an installed wheel."""
    inside = PACKAGE / "stages"
    return inside if inside.is_dir() else PACKAGE.parent / "stages"


def counted_files(script: Path, root: Path) -> set[str]:
    """Return the files that count for a stage: its script and what that imports, directly or through others that count.

    Paths are relative to `root`. Imports inside functions count too. A file in a folder with C code brings that along,
    since it is compiled when it runs; a package's __init__ counts where it holds code.
    """
    left_out = {*WITHOUT_A_PART, *(() if script.stem in MADE_OF_THEM else BY_ITS_FILE)}
    package, seen, waiting = root / "ppo_pipeline", set(), [script]
    while waiting:
        file = waiting.pop()
        place = file.relative_to(package).as_posix() if file.is_relative_to(package) else ""
        if place.split("/")[0] in left_out and place not in STILL_COUNTED:
            continue
        if file in seen or not file.is_file():
            continue
        seen.add(file)
        waiting += file.parent.glob("*.[ch]")
        if place:
            waiting += [folder / "__init__.py" for folder in file.parents if package in folder.parents]
        for name in FOUND_BY_NAME:
            waiting += (package / name).rglob("*.py") if place.startswith(f"{name}/") else []
        for module in _imports(file, root) if file.suffix == ".py" else ():
            if module.is_relative_to(package):
                waiting += [module.with_suffix(".py"), module / "__init__.py"]
    return {f.relative_to(root).as_posix() for f in seen if f.name != "__init__.py" or _code(_parsed(_text(f)).body)}


def _imports(file: Path, root: Path) -> Iterator[Path]:
    """Yield where each module that a file imports would lie, without suffix, were it one of this project."""
    for node in _import_statements(_text(file)):
        if isinstance(node, ast.Import):
            yield from (root.joinpath(*alias.name.split(".")) for alias in node.names)
        else:
            base = file.parents[node.level - 1] if node.level else root
            base = base.joinpath(*(node.module or "").split("."))
            yield from (base, *(base / alias.name for alias in node.names))


@cache
def _import_statements(source: str) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.walk(_parsed(source)) if isinstance(node, ast.Import | ast.ImportFrom)]


@cache
def fingerprint(source: str) -> str:
    """Return the SHA-256 of Python source: of its syntax tree less docstrings and words, the same in every Python."""
    return _sha256(json.dumps(_code(_parsed(source).body)))


def _code(node: Any, words: bool = False) -> Any:
    """Return a syntax tree as nested lists; words: whether texts in it are words. Empty fields are left out, since a
    newer Python has more of them."""
    if isinstance(node, list):
        return [_code(item, words) for item in node if not _is_silent(item, words)]
    if not isinstance(node, ast.AST):
        return ascii(node)
    words = words or isinstance(node, ast.Raise) or _calls(node, "result", ast.Name)
    fields = [(n, v) for n, v in ast.iter_fields(node) if v not in (None, []) and not _is_silent(v, words)]
    # stage.done(text, numbers): the names of the numbers are written
    if isinstance(node, ast.Call) and _calls(node, "done", ast.Attribute):
        return ["done", _code(node.args[:1], words=True), _code([node.func, *node.args[1:], *node.keywords])]
    return [type(node).__name__, *([name, _code(value, words)] for name, value in fields)]


def _is_silent(node: Any, words: bool) -> bool:
    """Tell whether a node is a docstring, which is a statement of a text alone, or a text among words."""
    text = node.value if isinstance(node, ast.Expr) else node if words else None
    return isinstance(text, ast.Constant) and isinstance(text.value, str)


def _calls(node: Any, name: str, kind: type) -> bool:
    """Tell a call of `name(...)`, with kind ast.Name, or of `x.name(...)`, with ast.Attribute."""
    func = node.func if isinstance(node, ast.Call) else None
    return isinstance(func, kind) and name in (getattr(func, "id", None), getattr(func, "attr", None))


def fingerprint_of_c(source: str) -> str:
    """Return the SHA-256 of C source without its comments, blank lines and trailing spaces."""
    code = C_COMMENT.sub(lambda found: found[1] or " ", source)
    kept = (line.rstrip() for line in code.splitlines())
    return _sha256("\n".join(line for line in kept if line))


def stage_fingerprints(script: Path, root: Path) -> dict[str, str]:
    """Return the fingerprint of each file that counts for a stage, by path.

    The paths are those in the repository: an installed wheel, with its stages inside the package, gives the same.
    """
    inside = "ppo_pipeline/stages/"
    found = {}
    for name in counted_files(script, root):
        own = name.removeprefix("ppo_pipeline/") if name.startswith(inside) else name
        found[own] = (fingerprint if name.endswith(".py") else fingerprint_of_c)(_text(root / name))
    return dict(sorted(found.items()))


def code_of(stage: str) -> dict[str, str]:
    """Return the same for a stage of this installation, by its name."""
    return stage_fingerprints(stages_folder() / f"{stage}.py", PACKAGE.parent)


def all_fingerprints() -> dict[str, dict[str, str]]:
    """Return the fingerprints of each stage's code, by the stage's name."""
    names = sorted(path.stem for path in stages_folder().glob("*.py"))
    return {name: code_of(name) for name in names if name not in ("__init__", "__main__", "code")}


def is_current(folder: Path) -> bool:
    """Tell whether the stage `code` would write to `folder` what is there."""
    written = {path.stem: json.loads(_text(path)) for path in folder.glob("*.json")}
    return written == all_fingerprints()


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
