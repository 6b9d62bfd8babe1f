"""Which project files a stage imports, and a fingerprint of each: what makes a stage run again after an edit.

Comments, docstrings and blank lines do not count: an edit of these reruns nothing.
"""

import ast
import hashlib
import io
import json
import re
import tokenize
from pathlib import Path

from .layout import PACKAGE, stages_folder

PACKAGES = ("ppo_pipeline", "stages")
# Folders where a file may load any other one: they count whole.
FOUND_BY_NAME = ("ppo_pipeline/rewards/", "ppo_pipeline/maths/estimators/")
C_COMMENT = re.compile(r"""("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|/\*.*?\*/|//(?:\\\n|[^\n])*""", re.DOTALL)


def imported_files(path: Path, root: Path) -> set[str]:
    """Return the project files that `path` imports, itself included, directly or through others.

    Paths are relative to `root`. Imports inside functions count too. A file in a folder with C code brings that along,
    since it is compiled when it runs. Package __init__ files are left out: they hold no code.
    """
    seen: set[str] = set()
    waiting = [path]
    while waiting:
        file = waiting.pop()
        name = file.relative_to(root).as_posix()
        if name not in seen:
            seen.add(name)
            waiting += _direct_imports(file, root) if file.suffix == ".py" else []
            waiting += file.parent.glob("*.[ch]")
            for folder in FOUND_BY_NAME:
                waiting += (root / folder).rglob("*.py") if name.startswith(folder) else []
    return {name for name in seen if not name.endswith("__init__.py")}


def _direct_imports(path: Path, root: Path) -> list[Path]:
    package = path.relative_to(root).with_suffix("").parts[:-1]
    modules: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            modules += [".".join([*base, alias.name]) for alias in node.names] + [".".join(base)]
    found = []
    for module in modules:
        place = root.joinpath(*module.split("."))
        if module.split(".")[0] in PACKAGES:
            found += [file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()]
    return found


def fingerprint(source: str) -> str:
    """Return the SHA-256 of Python source without its comments, docstrings, blank lines and trailing spaces."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) or not node.body:
            continue
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            for row in range(first.lineno - 1, first.end_lineno or first.lineno):
                lines[row] = ""
    kept = (line.rstrip() for line in lines)
    return hashlib.sha256("\n".join(line for line in kept if line).encode()).hexdigest()


def fingerprint_of_c(source: str) -> str:
    """Return the SHA-256 of C source without its comments, blank lines and trailing spaces."""
    code = C_COMMENT.sub(lambda found: found[1] or " ", source)
    kept = (line.rstrip() for line in code.splitlines())
    return hashlib.sha256("\n".join(line for line in kept if line).encode()).hexdigest()


def _fingerprint_of(path: Path) -> str:
    source = path.read_text(encoding="utf-8")
    return fingerprint(source) if path.suffix == ".py" else fingerprint_of_c(source)


def stage_fingerprints(stage: Path, root: Path) -> dict[str, str]:
    """Return the fingerprint of each project file that a stage's script imports, itself included, by path.

    The paths are those in the repository: an installed wheel, with its stages inside the package, gives the same.
    """
    inside = "ppo_pipeline/stages/"
    paths = {
        name.removeprefix("ppo_pipeline/") if name.startswith(inside) else name: root / name
        for name in imported_files(stage, root)
    }
    return {name: _fingerprint_of(paths[name]) for name in sorted(paths)}


def all_fingerprints() -> dict[str, dict[str, str]]:
    """Return the fingerprints of each stage's code, by the stage's name."""
    scripts = sorted(stages_folder().glob("*.py"))
    wanted = [path for path in scripts if path.stem not in ("__init__", "__main__", "code")]
    return {path.stem: stage_fingerprints(path, PACKAGE.parent) for path in wanted}


def is_current(folder: Path) -> bool:
    """Tell whether the stage `code` would write to `folder` what is there."""
    written = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    return written == all_fingerprints()
