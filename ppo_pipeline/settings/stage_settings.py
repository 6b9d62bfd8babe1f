"""The effective settings of each stage of each round.

The stage `settings` writes them to data/settings/, one JSON file per stage and round. A stage depends on its own
file alone, so that a change reruns only the stages whose settings it changes, be it in a section or in a round's
override.
"""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import PipelineError
from .explain import explain
from .params import Params
from .reward_sections import Reward
from .sections import Advantage, Compute, Evaluate, Reference, Rollout, Update

Model = TypeVar("Model", bound=BaseModel)


class StageSettings(BaseModel):
    """Base of the effective settings of one stage; subclasses name the sections that the stage uses."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def of(cls, params: Params, name: str) -> "StageSettings":
        """Collect this stage's settings for round `name` from `params`."""
        effective = params.of_round(name)
        extra = {"round": name, "depth": params.depth(name)}
        values = {f: extra[f] if f in extra else getattr(effective, f) for f in cls.model_fields}
        return cls(**values)


class RolloutSettings(StageSettings):
    """Settings of the rollout stage."""

    round: str
    depth: int
    seed: int
    chat_template: str
    date: str | None
    special_tokens: str
    rollout: Rollout
    compute: Compute


class RewardSettings(StageSettings):
    """Settings of the reward stage."""

    round: str
    reward: Reward


class ReferenceSettings(StageSettings):
    """Settings of the reference stage."""

    round: str
    temperature: float
    reference: Reference
    compute: Compute


class AdvantageSettings(StageSettings):
    """Settings of the advantage stage."""

    round: str
    advantage: Advantage


class UpdateSettings(StageSettings):
    """Settings of the update stage."""

    round: str
    depth: int
    seed: int
    temperature: float
    max_new_tokens: int
    share_prefix: bool
    whiten_minibatches: bool
    update: Update
    compute: Compute


class EvaluateSettings(StageSettings):
    """Settings of the evaluate stage."""

    round: str
    chat_template: str
    date: str | None
    special_tokens: str
    max_prompt_tokens: int
    stop_tokens: list[str]
    evaluate: Evaluate
    reward: Reward
    compute: Compute


ROUND_STAGES: dict[str, type[StageSettings]] = {
    "rollout": RolloutSettings,
    "reward": RewardSettings,
    "reference": ReferenceSettings,
    "advantage": AdvantageSettings,
    "update": UpdateSettings,
    "evaluate": EvaluateSettings,
}


def read_settings(cls: type[Model], path: Path) -> Model:
    """Read a stage's effective settings, as the stage `settings` wrote them."""
    try:
        return cls.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file; `dvc repro settings` writes it.") from None
    except UnicodeDecodeError as error:
        raise PipelineError(f"{path}: damaged ({error}); `dvc repro settings` writes it again.") from None
    except ValidationError as error:
        raise PipelineError(f"{explain(error, cls, str(path))}\n`dvc repro settings` writes it again.") from None
