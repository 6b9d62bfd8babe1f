"""What is sent of a run: the numbers of each line of rounds, from metrics/ and logs/."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from ..observe.live import line_of
from ..project.seeds.identity import settings_of
from ..report.curves import metrics_of
from ..report.run import Run
from ..report.stage_times import stage_times
from ..settings.files import flattened, public

Points = dict[tuple[str, int], float]  # (metric, rounds since the untrained policy): number


@dataclass(frozen=True)
class Line:
    """A line of rounds, which is one run of a tracker; a branch is another.

    key: the same for the same project, line and settings, so that a run that goes on is found again, and numbers of
    other settings get a run of their own. name: for people. settings: flattened, without those kept out of messages.
    """

    key: str
    name: str
    settings: dict[str, Any]
    points: Points


def lines(run: Run, name: str) -> list[Line]:
    """Return the lines of a run that have numbers: each round's metrics, and `seconds/STAGE` of its stages.

    name: what the runs are called, with the line's first round behind it.
    """
    settings = flattened(public(run.params.model_copy(update={"rounds": {}})))
    decide = {key: value for key, value in settings_of(run.params).items() if not key.startswith("rounds.")}
    text = json.dumps({**decide, "seed": run.params.seed}, sort_keys=True, ensure_ascii=False, default=str)
    mark = hashlib.sha256(text.encode()).hexdigest()[:8]
    of_lines: dict[str, Points] = {}
    for each in run.rounds:
        points = of_lines.setdefault(line_of(run.params, each), {})
        depth = run.params.depth(each)
        points |= {(metric, depth): number for metric, number in metrics_of(run, each).items()}
    for record in stage_times(run):
        if record["round"] is not None:
            place = f"seconds/{record['stage']}", run.params.depth(record["round"])
            of_lines[line_of(run.params, record["round"])][place] = float(record["seconds"])
    return [
        Line(f"{name}-{first}-{mark}", f"{name} {first}", settings, points)
        for first, points in of_lines.items()
        if points
    ]
