"""A project in which DVC is all the work: the real dvc.yaml, with stages that only write small files.

`code`, `prompts`, `settings`, `source` and `summary` are the real ones; `settings` and `summary` read all rounds.
"""

from pathlib import Path

from ruamel.yaml import YAML

from .projects import make_project

STUB = r'''
"""Write each output that is not there yet."""
from pathlib import Path

OUTS = [...]

def run(name=""):
    for path in (Path(out.replace("${key}", name)) for out in OUTS):
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix:
            path.write_text("{}\n" if path.suffix == ".json" else str(path))
        else:
            path.mkdir()
            (path / "state.json").write_text(f'{{"path": "{path}"}}')
'''
REAL = ("code", "prompts", "settings", "source", "summary")


def make(folder: Path) -> Path:
    """Return a project whose heavy stages are stubs."""
    model = folder.parent / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    project = make_project(folder, model, 8)
    stages = YAML(typ="safe").load(project / "dvc.yaml")["stages"]
    for path in (project / "stages").glob("*.py"):
        if path.stem not in ("__init__", "__main__", *REAL):
            entry = stages[path.stem]
            path.write_text(STUB.replace("[...]", repr(entry.get("do", entry)["outs"])))
    return project
