"""The score of each sample: the weighted sum of the reward components."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from ..engine.pool import Pool
from ..errors import PipelineError
from ..resume.scratch import Scratch, key_of
from ..settings.reward_sections import Reward
from .component import Component
from .normal_form import normalise
from .samples import NUMBER, Samples, is_reward, shown


def score_samples(
    settings: Reward,
    samples: Samples,
    scratch: Scratch | None = None,
    pool: Callable[[], Pool] | None = None,
    part: str = "",
) -> dict[str, list[float]]:
    """Return `score` and each component's columns by name, one number per sample.

    scratch: where finished batches of each component are kept, until that component's settings change. pool: gives
    the workers for a component with a model; None: this process does the work. part: the name of these samples, where
    the stage scores others too.
    Raises PipelineError, with the component and the sample named, for a reward that is not a finite number.
    """
    columns: dict[str, list[float]] = {}
    components: list[Component] = settings.components
    for component in components:
        key = key_of(component.files(), [component.model_dump_json()])
        snapshots = scratch.part(f"{part}{component.name}-{key}") if scratch else None
        for name, numbers in component.score_on(pool, samples, snapshots).items():
            _check(f"reward '{name}'", numbers, samples)
            columns[name] = [float(number) for number in numbers]
    weights = {c.name: c.weight for c in components}
    # A weight of 0 leaves a component out, also where it is large.
    scores = [sum(w * columns[n][i] for n, w in weights.items() if w) for i in range(len(samples))]
    _check("the weighted sum of the rewards", scores, samples)
    return {"score": scores, **columns}


def correct_of(settings: Reward, scores: dict[str, list[float]]) -> list[bool] | None:
    """Return whether each sample is a right answer as `reward.correct` says; None where that is null."""
    if settings.correct is None:
        return None
    return [reward >= settings.correct.at_least for reward in scores[settings.correct.component]]


def votes_of(settings: Reward, responses: list[str]) -> list[str]:
    """Return what of each response counts as its answer, as the component that reward.correct names has it."""
    by_name = {component.name: component for component in settings.components}
    vote = by_name[settings.correct.component].vote if settings.correct is not None else normalise
    return [vote(response) for response in responses]


def check_prompts(settings: Reward, prompts: pa.Table) -> None:
    """Raise PipelineError, before anything is decoded or asked for, where `prompts` lack what a component reads."""
    ids = prompts.column("prompt_id").to_pylist()
    unanswered = join_prompts(ids, ids, [""] * len(ids), [""] * len(ids), [[]] * len(ids), prompts)
    for component in settings.components:
        component.check(unanswered)


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


def component_means(settings: Reward, scores: dict[str, list[float]]) -> dict[str, float]:
    """Return the mean of each reward component as a metric, and of what is recorded beside it."""
    rewards = [component.name for component in settings.components]
    return {
        f"{'reward' if name in rewards else 'objective'}/{name}": float(np.mean(numbers))
        for name, numbers in scores.items()
        if name != "score"
    }
