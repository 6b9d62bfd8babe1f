"""The files of a new project, and their making: all of them or none."""

import shutil
from pathlib import Path

from ...errors import PipelineError
from ...settings.params import load_params
from ...storage.files import atomic_folder
from ..layout import PACKAGE, repository_file
from ..sealing.index import EMPTY
from .derived import project_dvc_yaml, project_params

TEMPLATE = PACKAGE / "project/new_project/template"
# What people edit in a clone, params.yaml and .dvc/config (remotes), is not taken from there.
AS_THEY_ARE = ("params.schema.json", ".dvcignore", ".dvc/.gitignore", ".dvc/plots.html")
TEMPLATES = {
    ".gitignore": "gitignore",
    ".dvc/config": "dvc-config",
    "README.md": "README.md",
    "prompts/example.jsonl": "prompts/example.jsonl",
    "reward_functions/__init__.py": "reward_functions/__init__.py",
    "reward_functions/example.py": "reward_functions/example.py",
}
LATER = ("metrics", "dvc.lock")  # what the pipeline makes, and would find there


def project_files(model: str | None, local: bool = False) -> dict[str, str]:
    """Return the text of each file of a new project, by its path there; local: whether `model` is a path."""
    made = {
        "dvc.yaml": project_dvc_yaml(_read(repository_file("dvc.yaml"))),
        "params.yaml": project_params(_read(repository_file("params/skills.yaml")), model, local),
        "sealed/rounds.yaml": EMPTY,
        "sealed/metrics/.gitkeep": "",
        "data/sources/base/.gitkeep": "",
    }
    copied = {name: _read(repository_file(name)) for name in AS_THEY_ARE}
    return made | copied | {name: _read(TEMPLATE / source) for name, source in TEMPLATES.items()}


def make_project(folder: Path, model: str | None = None) -> list[str]:
    """Write a new project to `folder`, whole or not at all; return what now lies in it, folders with a slash.

    model: `base.model`; a path counts from the current folder. Raises PipelineError where one of the names is taken;
    nothing is changed then.
    """
    local = bool(model) and Path(str(model)).exists()
    if local:
        model = str(Path(str(model)).resolve())
    files = project_files(model, local)
    names = sorted({Path(name).parts[0] for name in files})
    if folder.exists() and not folder.is_dir():
        raise PipelineError(f"{folder}: is a file; name a folder.")
    taken = [name for name in (*names, *LATER) if (folder / name).exists() or (folder / name).is_symlink()]
    if taken:
        raise PipelineError(
            f"{folder}: has {', '.join(taken)} already; take another folder, or move these away. Nothing was changed."
        )
    try:
        _write(folder, files, names)
    except OSError as error:
        raise PipelineError(f"{folder}: {error.strerror or error}. Nothing was changed.") from None
    return [f"{name}/" if (folder / name).is_dir() else name for name in names]


def _write(folder: Path, files: dict[str, str], names: list[str]) -> None:
    new = not folder.exists()
    target = folder if new else folder / ".ppo-pipeline-init"  # beside its place, so that each move is one rename
    with atomic_folder(target.resolve()) as partial:
        for name, text in files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_text(text, encoding="utf-8", newline="\n")
        try:
            load_params(partial / "params.yaml")
        except PipelineError as error:  # such as an empty model
            raise PipelineError(str(error.message).replace(str(partial), str(folder))) from None
    if new:
        return
    moved: list[str] = []
    try:
        for name in names:
            (target / name).rename(folder / name)
            moved.append(name)
    except BaseException:
        for name in moved:
            (folder / name).rename(target / name)
        raise
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
