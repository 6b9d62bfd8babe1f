"""How long stages take, from the records of their last runs in logs/ (run_record.py)."""

import json
from pathlib import Path

from ...settings.params import ROOT, Params

OTHER = {"baseline": (ROOT, "evaluate"), "base": ("all", "base")}  # where these stages keep their record


class Durations:
    """Seconds that a stage's process took when it last ran, in its own round or the nearest one that has a record."""

    def __init__(self, params: Params, logs: Path = Path("logs")) -> None:
        self.logs, self.rounds = logs, [ROOT, *params.all_rounds]
        self.read: dict[Path, float | None] = {}

    def of(self, stage: str) -> float | None:
        """Return the seconds of a stage as DVC names it (update@r003); None where no round has a record."""
        name, _, round_name = stage.partition("@")
        if not round_name:
            folder, name = OTHER.get(name, ("all", name))
            return self._record(folder, name)
        place = self.rounds.index(round_name) if round_name in self.rounds else len(self.rounds)
        for other in sorted(range(len(self.rounds)), key=lambda index: abs(index - place)):
            seconds = self._record(self.rounds[other], name)
            if seconds is not None:
                return seconds
        return None

    def _record(self, folder: str, name: str) -> float | None:
        path = self.logs / folder / f"{name}.json"
        if path not in self.read:
            self.read[path] = self.recorded(path)
        return self.read[path]

    @staticmethod
    def recorded(path: Path) -> float | None:
        """Return the seconds that a record has; None without one, or half of one: an estimate does without."""
        try:
            return float(json.loads(path.read_text(encoding="utf-8"))["process_seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
