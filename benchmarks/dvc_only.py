"""A project in which DVC is all the work: the real dvc.yaml, with stages that only write small files.

`code`, `settings`, `source` and `summary` are the real ones; `settings` and `summary` read all rounds.
"""

from pathlib import Path

from .projects import make_project

STUB = r'''
"""Write each output that is not there yet."""
import sys
from pathlib import Path

arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
for path in map(Path, arguments.values()):
    if path.exists():
        continue
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix:
        path.write_text("{}\n" if path.suffix == ".json" else str(path))
    else:
        path.mkdir()
        (path / "state.json").write_text(f'{{"path": "{path}"}}')
'''
REAL = ("code", "settings", "source", "summary")


def make(folder: Path) -> Path:
    """Return a project whose heavy stages are stubs."""
    model = folder.parent / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    project = make_project(folder, model, 8)
    for path in (project / "stages").glob("*.py"):
        if path.stem not in ("__init__", "__main__", *REAL):
            path.write_text(STUB)
    return project
