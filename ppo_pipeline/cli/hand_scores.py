"""Handwritten responses through the components of `reward`; errors say what to give to `ppo-pipeline score`."""

import sys
from pathlib import Path

from ..errors import PipelineError
from ..rewards.samples import MissingColumn
from ..rewards.scoring import check_prompts, join_prompts, score_samples
from ..settings.params import Params
from ..settings.reward_sections import Reward
from .handwritten import Handwritten
from .policy_view import Absent, PolicyView, policy_view


def scored(params: Params, reward: Reward, given: Handwritten) -> dict[str, list[float]]:
    """Return `score` and each component by name, as the stage `reward` computes them.

    Raises PipelineError where the prompts lack a column, and where a component reads what is not here; also one that
    read it, caught the error and went on: its number would be another one than the pipeline's.
    """
    here = str(Path.cwd())
    if sys.path[0] != here:  # where `python -m stages` finds reward_functions/
        sys.path.insert(0, here)
    try:
        check_prompts(reward, given.prompts)
    except MissingColumn as error:
        raise PipelineError(f"{error.message} Give it: --column {error.column}=VALUE.") from None
    view = policy_view(params, reward.components, given)
    ids = given.prompts.column("prompt_id").to_pylist()
    prompt_ids = [ids[row] for row in given.rows]
    samples = join_prompts(
        given.sample_ids, prompt_ids, view.prompt_texts, given.responses, view.response_ids, given.prompts
    )
    try:
        scores = score_samples(reward, samples)
    except PipelineError as error:
        if view.absent_read and view.absent_read[0] not in error.message:
            raise _unnoticed(reward, view) from None
        raise PipelineError(error.message + _hint(error.__cause__, view)) from error.__cause__
    if view.absent_read:
        raise _unnoticed(reward, view)
    return scores


def _unnoticed(reward: Reward, view: PolicyView) -> PipelineError:
    """Return the error that a function caught itself; which of several it was is not known."""
    readers = " or ".join(f"'{c.name}'" for c in reward.components if c.reads_policy_view() is None)
    return PipelineError(f"reward {readers}: {view.absent_read[0]}")


def _hint(cause: BaseException | None, view: PolicyView) -> str:
    """Return what may lie behind an error that a user's function raised."""
    if view.why and isinstance(cause, TypeError) and Absent.__name__ in str(cause):
        return f" Prompts as the policy saw them, and completion_ids, need the base model's tokenizer: {view.why}."
    if isinstance(cause, (KeyError, TypeError)):
        return " If one of these is missing, give it: --column NAME=VALUE."
    return ""
