"""The round with the best held-out number, and the rounds that the held-out prompts cannot tell from it.

The comparison is paired: two rounds answered the same prompts, and the standard error of their difference is that of
the prompts' differences, mostly smaller than what both rounds' own errors would make of it.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import PipelineError, nearest
from ..maths.heldout import standard_error
from ..settings.params import ROOT, Params
from ..tables.evaluation import EVALUATION, EVALUATION_SAMPLES
from ..tables.heldout import by_prompt
from ..tables.schema import TableError
from .paths import Paths
from .plan.as_run import metrics_of

TOLD = 2.0  # standard errors that a difference should be
Answers = dict[tuple[str, str], float]  # a number for each prompt, by its id and its text as the model saw it


@dataclass(frozen=True)
class Standing:
    """A round's held-out number, and how far it stands behind the best round.

    value, error: the mean over the prompts, and its standard error where that is known. prompts: that it and the best
    round both answered; 0 where the tables are not there. behind, behind_error: the best round's number less its own,
    on these prompts, with the paired standard error; without the tables, with that of two independent numbers.
    """

    round: str
    value: float
    error: float | None
    prompts: int
    behind: float
    behind_error: float | None

    @property
    def close(self) -> bool:
        """Whether it is behind by at most one standard error, or by an unknown number of them."""
        return self.behind_error is None or self.behind <= self.behind_error

    @property
    def told(self) -> bool:
        """Whether it is behind by more than TOLD standard errors."""
        return self.behind_error is not None and self.behind > TOLD * self.behind_error

    @property
    def prompts_needed(self) -> int | None:
        """About how many held-out prompts would tell it from the best; None where nothing says so."""
        if not self.prompts or self.behind_error is None or self.behind <= 0:
            return None
        return math.ceil(self.prompts * (TOLD * self.behind_error / self.behind) ** 2)


def standings(params: Params, by: str = "scores", root: Path = Path()) -> list[Standing]:
    """Return every round that has the metric eval/`by`, the highest first; of equal ones that with fewer rounds.

    root: the project's folder. Raises PipelineError where no round has it.
    """
    metrics = {name: metrics_of(params, name, root) for name in [ROOT, *params.all_rounds]}
    values = {name: float(numbers[f"eval/{by}"]) for name, numbers in metrics.items() if f"eval/{by}" in numbers}
    if not values:
        raise PipelineError(_unknown(by, {name for numbers in metrics.values() for name in numbers}))
    best, *others = sorted(values, key=lambda name: (-values[name], params.depth(name)))
    answers = {name: _answers(Paths(name, root=root), by) for name in values}
    errors = {name: metrics[name].get(f"eval/{by}_se", _error(answers[name])) for name in values}
    found = [Standing(best, values[best], errors[best], len(answers[best]), 0.0, 0.0)]
    for name in others:
        shared = [key for key in answers[best] if key in answers[name]]
        if shared:
            differences = np.array([answers[best][key] - answers[name][key] for key in shared])
            behind, error = float(differences.mean()), standard_error(differences)
        else:
            behind, first, other = values[best] - values[name], errors[best], errors[name]
            error = None if first is None or other is None else math.hypot(first, other)
        found.append(Standing(name, values[name], errors[name], len(shared), behind, error))
    return found


def _answers(paths: Paths, by: str) -> Answers:
    """Return a round's number for each held-out prompt; none where its tables are not here, or of another version."""
    try:
        table = EVALUATION.read(paths.evaluation)
        values = by_prompt(table)
        if by not in values:
            values = by_prompt(table, EVALUATION_SAMPLES.read(paths.evaluation_samples))
    except TableError:
        return {}
    keys = zip(*(table.column(column).to_pylist() for column in ("prompt_id", "prompt_text")), strict=True)
    return dict(zip(keys, values[by].tolist(), strict=True)) if by in values else {}


def _error(answers: Answers) -> float | None:
    return standard_error(np.array(list(answers.values())))


def _unknown(by: str, metrics: set[str]) -> str:
    known = sorted(name.removeprefix("eval/") for name in metrics if name.startswith("eval/"))
    if not known:
        return "no round is evaluated yet; `dvc repro` does it."
    return f"no round has the metric eval/{by}.{nearest(by, known)} There are: {', '.join(known)}."
