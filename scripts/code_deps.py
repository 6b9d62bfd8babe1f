"""Which project files each stage imports, and dvc.yaml's lists of them.

python scripts/code_deps.py          check: print what is missing or superfluous, exit 1 if anything is
python scripts/code_deps.py --write  bring the lists in dvc.yaml up to date
"""

import ast
import sys
from pathlib import Path

import click
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("ppo_pipeline", "stages")


def imported_files(path: Path) -> set[str]:
    """Return the project files that `path` imports, itself included, directly or through others.

    Imports inside functions count too. Package __init__ files are left out: they hold no code.
    """
    seen: set[str] = set()
    waiting = [path]
    while waiting:
        file = waiting.pop()
        name = file.relative_to(ROOT).as_posix()
        if name not in seen:
            seen.add(name)
            waiting += _direct_imports(file)
    return {name for name in seen if not name.endswith("__init__.py")}


def _direct_imports(path: Path) -> list[Path]:
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
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
        file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
        if module.split(".")[0] in PACKAGES and file.is_file():
            found.append(file)
    return found


def is_code(dep: object) -> bool:
    """Tell a dependency on the project's own code."""
    return isinstance(dep, str) and dep.endswith(".py") and dep.split("/")[0] in PACKAGES


def stage_module(command: str) -> Path:
    """Return the file of the stage that a dvc.yaml command runs (python -m stages.NAME ...)."""
    words = command.split()
    return ROOT.joinpath(*words[words.index("-m") + 1].split(".")).with_suffix(".py")


@click.command()
@click.option("--write", is_flag=True, help="Write the lists instead of checking them.")
def main(write: bool) -> None:
    """Check or write the code dependencies in dvc.yaml."""
    yaml = YAML()
    yaml.width = 1000
    yaml.indent(mapping=2, sequence=4, offset=2)
    path = ROOT / "dvc.yaml"
    document = yaml.load(path)
    wrong = False
    for name, stage in document["stages"].items():
        body = stage.get("do", stage)
        expected = imported_files(stage_module(body["cmd"]))
        found = {dep for dep in body["deps"] if is_code(dep)}
        for what, files in (("missing", expected - found), ("superfluous", found - expected)):
            for file in sorted(files):
                wrong = True
                if not write:
                    click.echo(f"dvc.yaml: stage {name}: deps: {what}: {file}")
        body["deps"] = [*sorted(expected), *(dep for dep in body["deps"] if not is_code(dep))]
    if write:
        yaml.dump(document, path)
    elif wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
