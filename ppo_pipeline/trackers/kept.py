"""What was sent to a tracker that cannot be asked: a small file in logs/."""

import hashlib
import json
from pathlib import Path

from ..storage.files import read_json, write_json
from .lines import Points

FOLDER = Path("logs/trackers")


class Kept:
    """The points sent to one run of one tracker; `place` tells all that decides where they went."""

    def __init__(self, tracker: str, *place: str) -> None:
        mark = hashlib.sha256(json.dumps(place).encode()).hexdigest()[:12]
        self.path = FOLDER / f"{tracker}-{mark}.json"
        self.place = list(place)

    def read(self) -> Points:
        """Return them; none where nothing was sent. Raises PipelineError for a damaged file."""
        if not self.path.is_file():
            return {}
        found = read_json(self.path, "delete it, and all is sent again")["sent"]
        return {(metric, int(step)): number for metric, steps in found.items() for step, number in steps.items()}

    def add(self, points: Points) -> None:
        """Remember more of them."""
        sent: dict[str, dict[str, float]] = {}
        for (metric, step), number in sorted({**self.read(), **points}.items()):
            sent.setdefault(metric, {})[str(step)] = number
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {"place": self.place, "sent": sent})
