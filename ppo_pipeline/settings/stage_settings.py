"""The effective settings of each stage of each round.

The stage `settings` writes them to data/settings/, one JSON file per stage and round. A stage depends on its own
file alone, so that a change reruns only the stages whose settings it changes, be it in a section or in a round's
override.
"""

from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import PipelineError
from .explain import explain
from .learning_sections import Advantage, Update
from .params import Params
from .reward_sections import Reward
from .sections import Compute, Evaluate, Reference, Rollout, Section, SharePrefix, Vllm

Model = TypeVar("Model", bound=BaseModel)


class StageSettings(BaseModel):
    """Base of the effective settings of one stage; subclasses name the sections that the stage uses.

    A stage that reads what its parent wrote is told which round that is. critic_alone: whether this is a round in
    which the critic alone learns.
    """

    stage: ClassVar[str]
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def of(cls, params: Params, name: str) -> "StageSettings":
        """Collect this stage's settings for round `name` from `params`."""
        effective = params.of_round(name)
        depth = params.depth(name)
        extra = {"round": name, "depth": depth, "compute": effective.compute.that_decides()}
        extra["critic_alone"] = depth <= effective.update.critic_warmup_rounds
        if "vllm" in cls.model_fields:  # null where it has no effect, so that a change of it reruns nothing
            extra["vllm"] = effective.vllm if getattr(effective, cls.stage).engine == "vllm" else None
        if "sampling" in cls.model_fields:  # null without sampled answers, for the same reason
            extra["sampling"] = _answer_sampling(effective) if effective.evaluate.samples_per_prompt else None
        if "parent" in cls.model_fields:
            extra["parent"] = params.all_rounds[name].parent
        values = {f: extra[f] if f in extra else getattr(effective, f) for f in cls.model_fields}
        return cls(**values)

    @property
    def parent_round(self) -> str:
        """The parent, empty for a stage that reads nothing of it."""
        return str(getattr(self, "parent", ""))

    @property
    def start_folder(self) -> str:
        """The folder that the policies start from, empty for a stage that reads none of them."""
        return str(getattr(self, "start", ""))

    @property
    def shown(self) -> dict[str, Any]:
        """How prompts are shown to the model, for a stage that shows it some: arguments of a Renderer."""
        return {name: getattr(self, name) for name in ("chat_template", "date", "special_tokens")}


class AnswerSampling(Section):
    """How `evaluate` samples answers: the seed, and settings of `rollout`."""

    seed: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None


class RolloutSettings(StageSettings):
    """Settings of the rollout stage."""

    stage = "rollout"
    round: str
    start: str
    parent: str
    depth: int
    seed: int
    chat_template: str
    date: str | None
    special_tokens: str
    rollout: Rollout
    vllm: Vllm | None
    compute: Compute


class RewardSettings(StageSettings):
    """Settings of the reward stage."""

    stage = "reward"
    round: str
    threads: int
    reward: Reward

    @property
    def compute(self) -> Compute:
        """The machine of the first reward model; each is loaded onto its own device and in its own dtype."""
        first = next(c for c in self.reward.components if c.loaded_model())
        return Compute(
            device=first.device,
            dtype=first.dtype,
            head="auto",
            threads=self.threads,
            kernels="auto",
            batch_invariant=False,
        )


class ReferenceSettings(StageSettings):
    """Settings of the reference stage."""

    stage = "reference"
    round: str
    start: str
    parent: str
    temperature: float
    reference: Reference
    compute: Compute


class AdvantageSettings(StageSettings):
    """Settings of the advantage stage."""

    stage = "advantage"
    round: str
    parent: str
    depth: int
    critic_alone: bool
    overlong_limit: int | None
    tells_correct: bool
    advantage: Advantage


class UpdateSettings(StageSettings):
    """Settings of the update stage."""

    stage = "update"
    round: str
    start: str
    parent: str
    depth: int
    critic_alone: bool
    seed: int
    temperature: float
    max_new_tokens: int
    share_prefix: SharePrefix
    whiten_minibatches: bool
    update: Update
    compute: Compute


class EvaluateSettings(StageSettings):
    """Settings of the evaluate stage."""

    stage = "evaluate"
    round: str
    start: str
    chat_template: str
    date: str | None
    special_tokens: str
    max_prompt_tokens: int
    stop_tokens: list[str]
    evaluate: Evaluate
    sampling: AnswerSampling | None
    vllm: Vllm | None
    reward: Reward
    compute: Compute


def _answer_sampling(params: Params) -> AnswerSampling:
    rollout = params.rollout.model_dump(include={"temperature", "top_k", "top_p", "min_p"})
    return AnswerSampling(seed=params.seed, **rollout)


ROUND_STAGES: dict[str, type[StageSettings]] = {cls.stage: cls for cls in StageSettings.__subclasses__()}


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
