"""Numbers that steer training and travel with the checkpoint: the KL coefficient, the running scale of scores."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from ..errors import PipelineError
from ..storage.files import read_json, write_json

Record = TypeVar("Record")


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
        data = read_json(path)
        return record_of(cls, data.get("controllers", data), path)


def record_of(cls: type[Record], values: Any, path: Path) -> Record:
    """Return the dataclass `cls` with `values`, as `path` has them; PipelineError for an unknown field or wrong type.

    Of its fields the numbers alone are read; those that `values` lacks keep their defaults.
    """
    kinds = {name: kind for name, kind in get_type_hints(cls).items() if kind in (int, float, float | None)}
    if not isinstance(values, dict) or not set(values) <= set(kinds):
        raise PipelineError(f"{path}: damaged ({sorted(kinds)} expected, found {values!r:.200}); delete it and rerun.")
    for name, value in values.items():
        allowed = isinstance(value, kinds[name]) or (type(value) is int and kinds[name] is not int)
        if not allowed or isinstance(value, bool) or (value is not None and not abs(value) < 1e300):  # NaN too
            raise PipelineError(f"{path}: damaged ({name}: {value!r:.200}); delete it and rerun.")
    return cls(**values)
