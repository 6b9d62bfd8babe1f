"""Samples of rounds that pairs are made of, with their scores, and whether these may be compared."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from ..errors import PipelineError, nearest
from ..project.paths import Paths
from ..project.plan.as_run import settings_of
from ..prompts.conversations import Messages
from ..settings.files import differences, told
from ..settings.params import ROOT, Params
from ..tables.evaluation import EVALUATION_SAMPLES
from ..tables.prompts import PROMPTS
from ..tables.rewards import REWARDS
from ..tables.rollouts import ROLLOUTS
from ..tables.schema import same_order
from .pair_choice import Sample

COLUMNS = ["sample_id", "prompt_id", "prompt_text", "response_text"]


def samples_of(rounds: list[str], heldout: bool, scored: bool) -> list[Sample]:
    """Return the samples of each round's rollouts, and with `heldout` its sampled answers to held-out prompts.

    scored: whether scores are needed; without, a round may lack rewards.parquet. Raises PipelineError for what is not
    there.
    """
    found = [sample for name in rounds for sample in _of_round(name, heldout, scored)]
    if not found:
        raise PipelineError(f"{', '.join(rounds)}: no samples; evaluate.samples_per_prompt is 0.")
    return found


def _of_round(name: str, heldout: bool, scored: bool) -> Iterator[Sample]:
    paths = Paths(name)
    if name != ROOT:
        rollouts = ROLLOUTS.read(paths.rollouts, COLUMNS)
        rewards = REWARDS.read(paths.rewards) if scored or paths.rewards.is_file() else None
        if rewards is not None:
            same_order(rollouts, rewards, f"{paths.rollouts} and {paths.rewards}")
        yield from _samples(name, rollouts, rewards, len(REWARDS.arrow.names))
    elif not heldout:
        raise PipelineError(f"{ROOT}: the untrained policy answers held-out prompts alone: add --heldout.")
    if heldout:
        answers = EVALUATION_SAMPLES.read(paths.evaluation_samples)
        yield from _samples(name, answers, answers, len(EVALUATION_SAMPLES.arrow.names))


def _samples(name: str, texts: pa.Table, scores: pa.Table | None, fixed: int) -> Iterator[Sample]:
    names = [] if scores is None else ["score", *scores.column_names[fixed:]]
    rows = [] if scores is None else scores.select(names).to_pylist()
    for place, values in enumerate(texts.select(COLUMNS).to_pylist()):
        sample_id, prompt_id, prompt_text, text = values.values()
        yield Sample(name, sample_id, prompt_id, prompt_text, text, rows[place] if rows else {})


def by_prompt(samples: list[Sample], left_out: Counter[str]) -> list[tuple[Messages, list[Sample]]]:
    """Return each prompt's messages with its samples, in the order of prompts.parquet.

    Samples are together where the model saw the same text. Left out, and counted, are those of a prompt that is no
    longer there or reads otherwise now.
    """
    table = PROMPTS.read(Paths().prompts, ["messages"])
    messages = dict(zip(*(table.column(name).to_pylist() for name in ("prompt_id", "messages")), strict=True))
    groups: dict[str, dict[str, list[Sample]]] = {prompt_id: {} for prompt_id in messages}
    for sample in samples:
        if _reads_so(messages.get(sample.prompt_id, []), sample.prompt_text):
            groups[sample.prompt_id].setdefault(sample.prompt_text, []).append(sample)
        else:
            left_out["answers to prompts that prompts.parquet has otherwise now"] += 1
    return [(messages[prompt_id], group) for prompt_id, texts in groups.items() for group in texts.values()]


def _reads_so(messages: Messages, text: str) -> bool:
    """Tell whether a prompt's text has all that was said but what the assistant did, which a template may shorten."""
    said = [message["content"].strip() for message in messages if message["role"] != "assistant"]
    return bool(messages) and all(content in text for content in said)


def check_scores(samples: list[Sample], by: str) -> None:
    """Raise PipelineError where a sample has no score of that name."""
    for sample in samples:
        if by not in sample.scores:
            hint = nearest(by, list(sample.scores))
            known = f" They are: {', '.join(sample.scores)}." if sample.scores else " It has no rewards.parquet."
            raise PipelineError(f"{sample.round}: no score or component '{by}'.{hint}{known}")


def refuse_other_rewards(params: Params, rounds: list[str], by: str) -> None:
    """Raise PipelineError where rounds were scored with other settings, as far as these are known: a gap means nothing.

    A component is compared by its own settings, without its weight.
    """
    first: tuple[str, dict[str, Any]] | None = None
    for name in rounds:
        settings = _reward_settings(settings_of(params, name) or {}, by)
        if not settings:
            continue
        first = first or (name, settings)
        for setting, (a, b) in differences(first[1], settings).items():
            raise PipelineError(
                f"{first[0]} and {name} were scored with other settings, reward{setting}: {told(a)} and {told(b)}; "
                "make pairs of each alone."
            )


def _reward_settings(settings: dict[str, Any], by: str) -> dict[str, Any]:
    found = {key.removeprefix("reward"): value for key, value in settings.items() if key.startswith("reward.comp")}
    if by == "score":
        return found
    named = (key for key, value in found.items() if key.endswith("].name") and value == by)
    start = next(named, "").removesuffix("name")
    own = {f".{by}.{key.removeprefix(start)}": value for key, value in found.items() if start and key.startswith(start)}
    return {key: value for key, value in own.items() if not key.endswith(".weight")}
