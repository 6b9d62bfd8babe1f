"""What DVC costs for one more round, by how many rounds there are: all of them open, and all but four sealed.

`code`, `prompts`, `settings`, `summary` are real, the rest stubs (dvc_only.py). Processor seconds are compared, DVC's
and of all that it starts: a busy machine changes them little. A project of many open rounds is made by unsealing them,
since to run them one after the other would take hours. `python -m benchmarks.rounds COUNT ...` measures other counts.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from .dvc_only import make
from .measuring import measured
from .projects import REPRO, change

COUNTS = (1, 10, 25, 50, 100, 200)  # rounds before the one that is measured
OPEN, CHUNK = 4, 10


def run(_base: Path, counts: tuple[int, ...] = COUNTS, most_open: int = max(COUNTS)) -> list[dict[str, Any]]:
    """Return a row per number of rounds; those with all rounds open up to `most_open` of them, being slow."""
    os.environ["PPO_PIPELINE_WARM"] = "0"  # the stubs need no torch
    rows = []
    with tempfile.TemporaryDirectory() as place:
        project = make(Path(place) / "project")
        for count in counts:
            grow(project, count)
            seal(project)
            ours = one_more(project)
            peer: dict[str, Any] = {}
            if count <= most_open:
                unseal(project)
                peer = one_more(project)
                seal(project)
            row = {"what": f"DVC for a round after {count}, processor s; peer: none sealed", "rounds": count}
            row |= {"ours": ours["round"], "sealed": ours, "target": "+2.5 s from 1 to 100 rounds"}
            if peer:
                row |= {"peer": peer["round"], "open": peer, "ratio": round(peer["round"] / ours["round"], 2)}
            rows.append(row)
            print(row, flush=True)
    return rows


def one_more(project: Path) -> dict[str, float]:
    """Append a round; return the seconds of `dvc repro` for it and of one that has nothing to do; keep the round."""
    append(project, 1)
    took, idle = measured(REPRO, project), measured(REPRO, project)
    return {
        "round": took["cpu_seconds"],
        "nothing": idle["cpu_seconds"],
        "round_wall": took["seconds"],
        "nothing_wall": idle["seconds"],
    }


def grow(project: Path, count: int) -> None:
    """Run rounds until there are `count`, sealing them on the way."""
    while (missing := count - total(project)) > 0:
        append(project, min(CHUNK, missing))
        measured(REPRO, project)
        seal(project)


def append(project: Path, count: int) -> None:
    """Add rounds to params.yaml, each starting from the one before."""
    opened = dict(YAML(typ="safe").load(project / "params.yaml")["rounds"])
    first = total(project) + 1
    new = {f"r{i:03d}": {"parent": f"r{i - 1:03d}"} for i in range(first, first + count)}
    change(project, {"rounds": {**opened, **new}})


def total(project: Path) -> int:
    """Return the number of rounds, open and sealed."""
    opened = YAML(typ="safe").load(project / "params.yaml")["rounds"]
    return len(opened) + len(sealed(project))


def sealed(project: Path) -> dict[str, Any]:
    """Return the sealed rounds."""
    found: dict[str, Any] = YAML(typ="safe").load(project / "sealed/rounds.yaml")
    return found


def seal(project: Path) -> None:
    """Seal all rounds but the last few, without bringing `settings` and `summary` up to date."""
    library(project, "seal", "seal", str(OPEN))
    measured(REPRO, project)


def unseal(project: Path) -> None:
    """Unseal all rounds."""
    if sealed(project):
        library(project, "unseal", "unseal", "'r001'")


def library(project: Path, module: str, function: str, argument: str) -> None:
    """Call a function of ppo_pipeline.project.sealing in the project's folder."""
    program = f"from ppo_pipeline.project.sealing.{module} import {function}; {function}({argument})"
    measured([sys.executable, "-c", program], project)


if __name__ == "__main__":
    import json

    target = Path("benchmarks/results/rounds.json")
    numbers = [int(number) for number in sys.argv[1:]] or list(COUNTS)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({"rows": run(Path(), tuple(numbers))}, indent=2) + "\n", encoding="utf-8")
