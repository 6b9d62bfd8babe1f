"""Numbers that steer training and travel with the checkpoint: the KL coefficient, the running scale of scores."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .errors import PipelineError
from .files import write_json


@dataclass(frozen=True)
class Controllers:
    """State after a round; a branch goes on from its parent's.

    kl_coef: the adaptive coefficient for the next round, None where it is fixed.
    score_count, score_mean, score_variance: of all scores so far (biased variance), where they are scaled.
    """

    kl_coef: float | None = None
    score_count: int = 0
    score_mean: float = 0.0
    score_variance: float = 0.0

    def write(self, path: Path) -> None:
        """Write as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> "Controllers":
        """Read what `write` wrote, or the `controllers` of a checkpoint's state.json.

        Raises PipelineError for a file that is absent or damaged.
        """
        try:
            data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return cls(**data.get("controllers", data))
        except FileNotFoundError:
            raise PipelineError(f"{path}: no such file; `dvc repro` makes it, `dvc pull` fetches it.") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise PipelineError(f"{path}: damaged ({error}); delete it and rerun.") from None
