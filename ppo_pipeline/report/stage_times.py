"""How long each stage took and how many tokens went through it, from the records in logs/."""

from typing import Any

from ..errors import PipelineError
from ..project.stages import STAGES
from ..storage.files import read_json
from .run import Run

NUMBERS = ("seconds", "tokens", "tokens_per_second", "peak_memory_gb", "peak_gpu_memory_gb")


def stage_times(run: Run) -> list[dict[str, Any]]:
    """Return {stage, round, seconds, ...} of each record, stages in their order, rounds as the page has them.

    round: null for a stage that belongs to none. seconds: of the run that ended the stage; one that was killed before
    has left no record. A number that is not recorded is null. Rounds that params.yaml has no more are left out.
    """
    stages, rounds = list(STAGES), [None, *run.rounds]
    found = []
    for path in sorted((run.root / "logs").glob("*/*.json")):
        try:
            record = read_json(path)
        except PipelineError as error:
            run.notes.append(str(error.message).replace(f"{run.root}/", ""))
            continue
        stage, seconds = record.get("stage"), record.get("seconds")
        if stage not in STAGES or not isinstance(seconds, int | float):
            continue
        name = record.get("round") if STAGES[stage].takes == "ROUND" else None
        if name in rounds:
            found.append({"stage": stage, "round": name} | {key: _number(record.get(key)) for key in NUMBERS})
    return sorted(found, key=lambda each: (rounds.index(each["round"]), stages.index(each["stage"])))


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) else None
