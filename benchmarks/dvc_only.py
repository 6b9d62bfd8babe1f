"""What DVC costs as rounds are added: the real dvc.yaml, with stages that only write small files.

`code`, `settings` and `summary` are the real ones; the last two read all rounds.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from .measuring import measured
from .projects import change, make_project, rounds

STUB = '''
"""Write each output that is not there yet."""
import sys
from pathlib import Path

arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
for path in map(Path, arguments.values()):
    if path.exists():
        continue
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix:
        path.write_text("{}" if path.suffix == ".json" else str(path))
    else:
        path.mkdir()
        (path / "state.json").write_text(f'{{"path": "{path}"}}')
'''
REAL = ("code", "settings", "summary")


def make(folder: Path) -> Path:
    """Return a project whose heavy stages are stubs."""
    model = folder.parent / "model"
    model.mkdir(parents=True)
    project = make_project(folder, model, 8)
    for path in (project / "stages").glob("*.py"):
        if path.stem not in ("__init__", "__main__", *REAL):
            path.write_text(STUB)
    return project


def appended(project: Path, counts: list[int]) -> list[dict[str, Any]]:
    """Return, for each number of rounds, the wall seconds of `dvc repro` for the last of them, and of one without
    anything to do."""
    rows = []
    for count in counts:
        if count > 1:
            change(project, {"rounds": rounds(count - 1)})
            measured(["dvc", "repro", "--quiet"], project)
        change(project, {"rounds": rounds(count)})
        one = measured(["dvc", "repro", "--quiet"], project)["seconds"]
        nothing = measured(["dvc", "repro", "--quiet"], project)["seconds"]
        rows.append({"rounds": count, "appended_seconds": one, "no_op_seconds": nothing})
        print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    import sys

    os.environ["PPO_PIPELINE_WARM"] = "0"  # the stubs need no torch
    place = Path(sys.argv[1])
    shutil.rmtree(place, ignore_errors=True)
    appended(make(place / "project"), [int(n) for n in sys.argv[2:]])
