"""The stages: the one list of them. dvc.yaml says what each reads and writes, stages/<name>.py does it."""

from dataclasses import dataclass
from typing import Any, Literal

from ..errors import PipelineError
from ..errors.memory import OTHERWISE


@dataclass(frozen=True)
class Stage:
    """A stage.

    takes: what its command is given: a round, the name of a local model in `sources`, that of an entry of the section
        that is called like the stage, or nothing.
    start: "warm" in a child of a server that has torch imported; "ahead" starts that server; "beside" where the server
        is there; "cold" as any other program. engine/warm/ says how.
    makes: its main output in the round's folder. less_memory: what makes it need less memory.
    """

    name: str
    takes: Literal["", "ROUND", "SOURCE", "NAME"] = ""
    start: Literal["warm", "ahead", "beside", "cold"] = "cold"
    makes: str = ""
    less_memory: str = OTHERWISE

    @property
    def settings(self) -> Any:
        """The class of its effective settings; None for a stage that reads params.yaml, or nothing."""
        from ..settings.stage_settings import ROUND_STAGES  # pydantic is slow to import

        return ROUND_STAGES.get(self.name)

    def check(self, given: str | None) -> None:
        """Raise PipelineError where the stage is given no name that it takes, or one too many."""
        if bool(self.takes) == bool(given):
            return
        example = {"": "", "ROUND": " r001", "SOURCE": " base", "NAME": " NAME"}[self.takes]
        section = "sources" if self.takes == "SOURCE" else self.name
        takes = {"": "no round", "ROUND": "a round"}.get(self.takes, f"a name in `{section}`")
        raise PipelineError(f"the stage `{self.name}` takes {takes}: python -m stages {self.name}{example}")


# Smaller batches change results by rounding at most.
STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("code"),
        Stage("settings", start="ahead"),
        Stage("source", "SOURCE"),
        Stage("base"),
        Stage("datasets", "NAME"),
        Stage("prompts"),
        Stage("preferences", "NAME"),
        Stage("sft", "NAME", "warm", less_memory="lower microbatch_tokens of its entry in `sft`"),
        Stage("reward_model", "NAME", "warm", less_memory="lower microbatch_tokens of its entry in `reward_model`"),
        Stage("init", start="warm"),
        Stage("rollout", "ROUND", "warm", "rollouts.parquet", "lower rollout.batch_size"),
        Stage(
            "reward", "ROUND", "beside", "rewards.parquet",
            "lower batch_tokens of the reward model in reward.components",
        ),
        Stage("reference", "ROUND", "warm", "reference.parquet", "lower reference.batch_tokens"),
        Stage("advantage", "ROUND", "beside", "advantages.parquet"),
        Stage(
            "update", "ROUND", "warm", "policy",
            "lower update.microbatch_tokens, or set update.gradient_checkpointing: true",
        ),
        Stage("evaluate", "ROUND", "warm", "eval.parquet", "lower evaluate.batch_size"),
        Stage("summary", start="beside"),
    )
}  # fmt: skip
OF_A_ROUND = [stage.name for stage in STAGES.values() if stage.takes == "ROUND"]
OF_A_NAME = [stage.name for stage in STAGES.values() if stage.takes in ("SOURCE", "NAME")]
