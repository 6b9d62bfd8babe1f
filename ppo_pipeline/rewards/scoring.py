"""The score of each sample: the weighted sum of the reward components."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import PipelineError
from ..resume.scratch import Scratch, key_of
from ..resume.snapshots import Snapshots
from ..settings.reward_sections import Reward
from .function import check_module, python_rewards
from .model import model_rewards
from .rule import rule_rewards
from .samples import NUMBER, Samples, is_reward, shown
from .service import check_service, http_rewards
from .wanted import read_wanted

FUNCTIONS = Path("reward_functions")
SCORERS: dict[str, Callable[[Any, Samples, Snapshots | None], list[float]]] = {
    "rule": lambda component, samples, _: rule_rewards(component, samples),
    "python": python_rewards,
    "model": model_rewards,
    "http": http_rewards,
}
CHECKS: dict[str, Callable[[Any, Samples], object]] = {
    "rule": lambda component, prompts: read_wanted(component, prompts, "prompt"),
    "python": lambda component, _: check_module(component),
    "http": check_service,
}


def score_samples(settings: Reward, samples: Samples, scratch: Scratch | None = None) -> dict[str, list[float]]:
    """Return `score` and each component's rewards by name, one number per sample.

    scratch: where finished batches of each component are kept, until that component's settings change.
    Raises PipelineError, with the component and the sample named, for a reward that is not a finite number.
    """
    columns: dict[str, list[float]] = {}
    for component in settings.components:
        kept = scratch.part(f"{component.name}-{_key(component)}") if scratch else None
        rewards = SCORERS[component.type](component, samples, kept)
        _check(f"reward '{component.name}'", rewards, samples)
        columns[component.name] = [float(r) for r in rewards]
    weights = {c.name: c.weight for c in settings.components}
    # A weight of 0 leaves a component out, also where it is large.
    scores = [sum(w * columns[n][i] for n, w in weights.items() if w) for i in range(len(samples))]
    _check("the weighted sum of the rewards", scores, samples)
    return {"score": scores, **columns}


def check_prompts(settings: Reward, prompts: pa.Table) -> None:
    """Raise PipelineError, before anything is decoded or asked for, where `prompts` lack what a component reads."""
    ids = prompts.column("prompt_id").to_pylist()
    unanswered = join_prompts(ids, ids, [""] * len(ids), [""] * len(ids), [[]] * len(ids), prompts)
    for component in settings.components:
        if component.type in CHECKS:
            CHECKS[component.type](component, unanswered)


def _key(component: Any) -> str:
    """Return a hash of what decides a component's rewards besides the samples."""
    files = {"python": FUNCTIONS, "model": Path(str(getattr(component, "model", ""))).expanduser()}
    return key_of([files[component.type]] if component.type in files else [], [component.model_dump_json()])


def _check(what: str, rewards: list[float], samples: Samples) -> None:
    if len(rewards) != len(samples):
        raise PipelineError(f"{what}: {len(rewards)} rewards for {len(samples)} samples.")
    for sample, reward in zip(samples.sample_ids, rewards, strict=True):
        if not is_reward(reward):
            raise PipelineError(f"{what}: sample '{sample}': {shown(reward)} is not a {NUMBER}.")


def join_prompts(
    sample_ids: list[str],
    prompt_ids: list[str],
    prompt_texts: list[str],
    responses: list[str],
    response_ids: list[list[int]],
    prompts: pa.Table,
) -> Samples:
    """Return the samples with their prompts' messages and further columns, looked up by prompt id."""
    rows = {prompt_id: i for i, prompt_id in enumerate(prompts.column("prompt_id").to_pylist())}
    try:
        order = [rows[p] for p in prompt_ids]
    except KeyError as error:
        raise PipelineError(f"prompts.parquet: no prompt {error}, which a sample answers; rerun rollout.") from None
    joined = prompts.take(pa.array(order, pa.int64()))
    columns = {n: joined.column(n).to_pylist() for n in joined.column_names if n not in ("prompt_id", "messages")}
    messages = joined.column("messages").to_pylist()
    return Samples(sample_ids, messages, prompt_texts, responses, response_ids, columns)


def component_means(scores: dict[str, list[float]], prefix: str) -> dict[str, float]:
    """Return the mean of each reward component as a metric."""
    return {f"{prefix}/{name}": float(np.mean(numbers)) for name, numbers in scores.items() if name != "score"}
