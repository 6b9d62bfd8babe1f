"""This package as a wheel in an environment of its own, and a project that `ppo-pipeline init` made with it."""

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable
from importlib.metadata import distribution, distributions
from pathlib import Path

from conftest import save_tiny
from dvc_project import REPOSITORY, ProjectCopy, make_small
from packaging.requirements import Requirement

BUILT_OF = ("ppo_pipeline", "stages", "pyproject.toml", "setup.py", "README.md", "LICENSE")


def wheel_patterns() -> list[str]:
    """Return PATTERNS of setup.py, which cannot be imported: it would set up."""
    tree = ast.parse((REPOSITORY / "setup.py").read_text(encoding="utf-8"))
    [found] = [n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "PATTERNS"]
    return list(ast.literal_eval(found))


def repository_files() -> list[str]:
    """Return the files that those patterns bring into the wheel."""
    found = [path for pattern in wheel_patterns() for path in REPOSITORY.glob(pattern)]
    return [path.relative_to(REPOSITORY).as_posix() for path in found]


def required_entries(requirements: list[str]) -> set[Path]:
    """Return what lies in the tests' site-packages of all that is required without an extra."""
    entries: set[Path] = set()
    todo, seen = needed(requirements, ()), set()
    while todo:
        wanted = todo.pop()
        if (wanted.name, *wanted.extras) in seen:
            continue
        seen.add((wanted.name, *wanted.extras))
        found = distribution(wanted.name)
        tops = {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}
        entries |= {Path(sysconfig.get_paths()["purelib"], top) for top in tops}
        todo += needed(found.requires or [], wanted.extras)
    return entries


def needed(requirements: list[str], extras: Iterable[str]) -> list[Requirement]:
    """Return those of a distribution's requirements that hold here, with so many of its extras."""
    return [
        each for each in map(Requirement, requirements)
        if not each.marker or any(each.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    ]  # fmt: skip


class Installed:
    """A virtual environment with the wheel and, of the tests' own libraries, those that the wheel's requirements bring.

    What an extra brings is not there, so that nothing works by a library which a plain `pip install` leaves out.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "environment"
        source = folder / "source"
        for name in (*BUILT_OF, *repository_files()):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            if (REPOSITORY / name).is_dir():
                shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(REPOSITORY / name, source / name)
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
        venv.create(self.folder, symlinks=os.name != "nt")
        (self.wheel,) = folder.glob("*.whl")
        run(*pip, "--python", str(self.python), "install", "--no-deps", "--no-index", str(self.wheel))
        (self.folder / "libraries").mkdir()
        (own,) = distributions(name="ppo-pipeline", path=[str(self.packages)])
        for entry in required_entries(own.requires or []):
            (self.folder / "libraries" / entry.name).symlink_to(entry)
        (self.packages / "libraries.pth").write_text(str(self.folder / "libraries"))
        shutil.rmtree(source)

    @property
    def python(self) -> Path:
        return self.folder / "bin/python"

    @property
    def packages(self) -> Path:
        (found,) = self.folder.glob("lib/python*/site-packages")
        return found


class InstalledProject(ProjectCopy):
    """A new project of the tiny model, whose commands run in that environment, with nothing of the repository."""

    def __init__(self, installed: Installed, folder: Path) -> None:
        self.installed, self.folder = installed, folder.parent
        self.said = self.run("ppo-pipeline", "init", folder.name)
        self.folder = folder
        save_tiny(folder / "model")
        make_small(folder / "params.yaml")

    def environment(self) -> dict[str, str]:
        there = (str(self.installed.python.parent), str(Path(sys.executable).parent), os.environ["PATH"])
        return {**without_pythonpath(), "PATH": os.pathsep.join(there), "DVC_NO_ANALYTICS": "1"}


def run(*command: str) -> None:
    done = subprocess.run(command, env=without_pythonpath(), capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def without_pythonpath() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
