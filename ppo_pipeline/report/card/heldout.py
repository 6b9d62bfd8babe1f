"""What a model card says of a round's answers to the held-out prompts: means with errors, and a few of them in full."""

import re
from dataclasses import dataclass

import pyarrow as pa

from ...errors import PipelineError
from ...errors.terminal import spelled_out
from ...maths.heldout import standard_error
from ...project.best_round import standings
from ...project.paths import Paths
from ...project.plan.as_run import metrics_of
from ...settings.params import ROOT, Params
from ...tables.evaluation import EVALUATION
from ...tables.heldout import by_prompt
from ...tables.joined import last_user_messages

MEASURED = {"scores": "mean reward", "correct": "right answers"}
LONGEST = 1500  # characters of a text that are shown


@dataclass(frozen=True)
class Measured:
    """A number of the held-out answers: its mean with standard error, and its change from the untrained policy.

    change_error is that of the prompts' differences. before, change, change_error: None where r000's answers are not
    there, or are to other prompts.
    """

    metric: str
    value: float
    error: float | None
    before: float | None
    change: float | None
    change_error: float | None

    @property
    def title(self) -> str:
        """What it is, in words."""
        return MEASURED[self.metric]


def answers_of(name: str) -> pa.Table | None:
    """Return a round's held-out answers; None where it has none."""
    path = Paths(name).evaluation
    table = EVALUATION.read(path) if path.is_file() else None
    return table if table is not None and table.num_rows else None


def measured(name: str) -> list[Measured]:
    """Return each number of MEASURED that the round's answers have."""
    table, first = answers_of(name), answers_of(ROOT) if name != ROOT else None
    if table is None:
        return []
    values = by_prompt(table)
    same = first is not None and first.column("prompt_text") == table.column("prompt_text")
    before = by_prompt(first) if same and first is not None else {}
    found = []
    for metric in MEASURED:
        if metric not in values:
            continue
        mean, error = float(values[metric].mean()), standard_error(values[metric])
        if metric not in before:
            found.append(Measured(metric, mean, error, None, None, None))
            continue
        change = values[metric] - before[metric]
        first_mean, mean_change = float(before[metric].mean()), float(change.mean())
        found.append(Measured(metric, mean, error, first_mean, mean_change, standard_error(change)))
    return found


def measured_average(params: Params, name: str) -> list[Measured]:
    """Return the same of the averaged policy, of which metrics are kept and no answers."""
    numbers, first = metrics_of(params, name), metrics_of(params, ROOT)
    return [
        Measured(metric, numbers[kept], numbers.get(f"{kept}_se"), first.get(f"eval/{metric}"), None, None)
        for metric in MEASURED
        if (kept := f"eval_average/{metric}") in numbers
    ]


def chosen_of(params: Params, name: str) -> int:
    """Return of how many evaluated rounds this one has the highest held-out score; 0 where another has it, or none."""
    try:
        rounds = [each for each in standings(params) if each.round != ROOT]
    except PipelineError:
        return 0
    return len(rounds) if rounds and rounds[0].round == name else 0


def samples(name: str, count: int) -> list[dict[str, str]]:
    """Return `count` answers spread evenly over the held-out prompts, as fenced Markdown, with r000's beside them."""
    table, first = answers_of(name), answers_of(ROOT) if name != ROOT else None
    if table is None:
        return []
    prompts, rows = last_user_messages(table, Paths(name).evaluation), table.to_pylist()
    earlier = {row["prompt_text"]: row["response_text"] for row in first.to_pylist()} if first is not None else {}
    step = max(1, len(rows) // count)
    found = []
    for place in range(0, len(rows), step)[:count]:
        row, before = rows[place], earlier.get(rows[place]["prompt_text"])
        texts = {"prompt": prompts[place], "answer": row["response_text"]} | (
            {} if before is None else {"before": before}
        )
        found.append({part: fenced(text) for part, text in texts.items()} | {"score": f"{row['score']:+.2f}"})
    return found


def fenced(text: str) -> str:
    """Return a text as a block of Markdown that nothing in it can end, without control characters."""
    cut = text if len(text) <= LONGEST else f"{text[:LONGEST]} [...]"
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", cut)), default=0))
    return f"{fence}text\n{spelled_out(cut)}\n{fence}"
