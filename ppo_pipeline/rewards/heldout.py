"""What a round's held-out answers say: each metric's value for each prompt, its mean and its standard error."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..errors import PipelineError
from ..maths.heldout import majority, pass_at_k, powers_up_to, standard_error
from ..tables.evaluation import EVALUATION

Floats = NDArray[np.floating]
WITH_ERROR = ("scores", "correct", "sampled_scores", "sampled_correct")


def by_prompt(answers: pa.Table, samples: pa.Table | None = None) -> dict[str, Floats]:
    """Return the value of each metric, named without eval/, for each prompt (P,), in the order of `answers`.

    answers: eval.parquet. samples: eval_samples.parquet, n rows to each prompt or none at all; None: not known. What is
    made of `correct` is there where reward.correct is set.
    """
    if not answers.num_rows:
        return {}
    components = answers.column_names[len(EVALUATION.arrow.names) :]
    found = {"scores": _numbers(answers, "score"), **{name: _numbers(answers, name) for name in components}}
    if not answers.column("correct").null_count:
        found["correct"] = _numbers(answers, "correct")
    found["response_length"] = pc.list_value_length(answers.column("response_ids")).to_numpy().astype(np.float64)
    found["finished"] = pc.equal(answers.column("finish_reason"), "stop").to_numpy().astype(np.float64)
    return found | (_sampled(answers, samples) if samples is not None and samples.num_rows else {})


def heldout_metrics(values: dict[str, Floats]) -> dict[str, float]:
    """Return the metrics eval/...: each one's mean, and the standard error over the prompts of those WITH_ERROR."""
    errors = {f"{name}_se": standard_error(values[name]) for name in WITH_ERROR if name in values}
    means = {name: float(np.mean(each)) for name, each in values.items()}
    return {f"eval/{name}": number for name, number in (means | errors).items() if number is not None}


def _sampled(answers: pa.Table, samples: pa.Table) -> dict[str, Floats]:
    prompts = answers.column("prompt_id").to_pylist()
    drawn = samples.num_rows // len(prompts)
    if samples.column("prompt_id").to_pylist() != [prompt for prompt in prompts for _ in range(drawn)]:
        raise PipelineError("eval_samples.parquet: of other prompts than eval.parquet; `dvc repro` renews both.")
    found: dict[str, Floats] = {"sampled_scores": _numbers(samples, "score").reshape(-1, drawn).mean(axis=1)}
    if samples.column("correct").null_count:
        return found
    right = _numbers(samples, "correct").reshape(-1, drawn)
    votes = np.array(samples.column("vote").to_pylist(), object).reshape(-1, drawn)
    found["sampled_correct"] = right.mean(axis=1)
    found |= {f"pass@{k}": pass_at_k(right.sum(axis=1).astype(int), drawn, k) for k in powers_up_to(drawn)}
    found["majority"] = np.array([row[majority(list(vote))] for row, vote in zip(right, votes, strict=True)])
    return found


def _numbers(table: pa.Table, name: str) -> Floats:
    return np.array(table.column(name).to_pylist(), np.float64)
