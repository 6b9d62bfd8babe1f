"""params.yaml as one typed, strict object, with the overrides of its rounds and the sealed rounds behind them."""

import itertools
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, PrivateAttr, ValidationError, model_validator

from ..errors import PipelineError, nearest
from .agreement import disagreements
from .as_before import AsBefore
from .dataset_sections import HubDataset
from .explain import explain
from .learning_sections import Advantage, Update
from .lines import ROOT as ROOT
from .lines import lines, main_line, twice_marked
from .preference_sections import Preferences
from .reward_model_sections import RewardModel
from .reward_sections import Reward
from .sections import (
    Base,
    ComputeAnywhere,
    Evaluate,
    Name,
    Policy,
    Prompts,
    Reference,
    Rollout,
    Section,
    SharePrefix,
    Vllm,
)
from .supervised_sections import Sft
from .yaml_file import read_map

FETCHED = "data/datasets/"  # where the stage `datasets` writes
SEALED = Path("sealed/rounds.yaml")  # beside params.yaml; ppo_pipeline/project/sealing/ says what sealing is
RoundName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]


class Round(Section):
    """One entry of `rounds`: its parent and, optionally, settings that hold in this round alone.

    main: whether the line of the parent goes on with this round, where several start from it; else with the first.
    """

    parent: RoundName = Field(description="Round whose policy this one starts from; r000 is the untrained one")
    main: bool = Field(default=False, description="The line of the parent goes on with this round")
    seed: int | None = None
    rollout: dict[str, Any] = Field(default_factory=dict)
    reward: dict[str, Any] = Field(default_factory=dict)
    reference: dict[str, Any] = Field(default_factory=dict)
    advantage: dict[str, Any] = Field(default_factory=dict)
    update: dict[str, Any] = Field(default_factory=dict)
    evaluate: dict[str, Any] = Field(default_factory=dict)


OVERRIDABLE = tuple(name for name in Round.model_fields if name not in ("parent", "main"))


class Params(Section):
    """The whole of params.yaml."""

    seed: int = Field(description="Seed of everything random", ge=0)
    base: Base
    sources: Annotated[dict[Name, Annotated[str, Field(min_length=1)]], AsBefore({})] = Field(
        description="Path of each local model, which dvc repro watches, by a name: `base` where base.model is a "
        "folder or .gguf file, any other for a reward model's folder, such as the component's"
    )
    datasets: Annotated[dict[Name, HubDataset], AsBefore({})] = Field(description="Data sets of a hub, by a name")
    prompts: Prompts
    preferences: Annotated[dict[Name, Preferences], AsBefore({})] = Field(
        description="Pairs of answers for a reward model to learn from, by a name"
    )
    sft: Annotated[dict[Name, Sft], AsBefore({})] = Field(
        description="Supervised training of the base model, by a name"
    )
    reward_model: Annotated[dict[Name, RewardModel], AsBefore({})] = Field(
        description="Reward models, trained on pairs of answers, by a name"
    )
    policy: Policy
    compute: ComputeAnywhere
    rollout: Rollout
    reward: Reward
    reference: Reference
    advantage: Advantage
    update: Update
    evaluate: Evaluate
    vllm: Vllm
    rounds: dict[RoundName, Round] = Field(description="The training rounds")
    _sealed: dict[str, Round] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _sections_agree(self) -> "Params":
        """Refuse settings of different sections that exclude each other."""
        if (text := next(disagreements(self), None)) is not None:
            raise ValueError(text)
        return self

    def entry(self, section: str, name: str) -> Any:
        """Return an entry of a section that is a map from names; PipelineError where there is none."""
        entries = getattr(self, section)
        if name not in entries:
            raise PipelineError(f"params.yaml: {section}: no '{name}'.{nearest(name, list(entries))}")
        return entries[name]

    @property
    def read_files(self) -> list[str]:
        """Files and folders that prompts, answers and pairs are read from."""
        learnt = [entry.source for entry in self.sft.values()], [entry.source for entry in self.preferences.values()]
        return [self.prompts.source, *itertools.chain(*learnt)]

    @property
    def data_files(self) -> list[str]:
        """Those of them that the pipeline starts from, and does not fetch itself."""
        return [name for name in self.read_files if not name.startswith(FETCHED)]

    @property
    def start(self) -> str:
        """Folder of the model that the policies start from."""
        return self.policy.start

    @property
    def samples(self) -> int:
        """Responses of a round."""
        return self.rollout.prompts_per_round * self.rollout.samples_per_prompt

    @property
    def threads(self) -> int:
        """CPU threads of a stage with a model."""
        return self.compute.threads

    @property
    def temperature(self) -> float:
        """Sampling temperature: every logprob of the round is taken at it."""
        return self.rollout.temperature

    @property
    def chat_template(self) -> str:
        """How prompts are shown to the model."""
        return self.prompts.chat_template

    @property
    def date(self) -> str | None:
        """Today's date to a chat template that asks for it."""
        return self.prompts.date

    @property
    def special_tokens(self) -> str:
        """What the text of a special token is within a prompt's own words."""
        return self.prompts.special_tokens

    @property
    def stop_tokens(self) -> list[str]:
        """Tokens that end a response besides the model's own."""
        return self.rollout.stop_tokens

    @property
    def max_new_tokens(self) -> int:
        """Length at which a sampled response is cut."""
        return self.rollout.max_new_tokens

    @property
    def share_prefix(self) -> SharePrefix:
        """Whether the prompts' common start runs once in training forwards."""
        return self.reference.share_prefix

    @property
    def whiten_minibatches(self) -> bool:
        """Whether advantages are whitened within each minibatch, which only the update knows."""
        return self.advantage.whiten_advantages == "minibatch"

    @property
    def overlong_limit(self) -> int | None:
        """Length at which a sampled response is cut, where the advantages depend on it."""
        return None if self.advantage.overlong_buffer is None else self.max_new_tokens

    @property
    def tells_correct(self) -> bool:
        """Whether the update is told which responses are right answers."""
        return self.update.likelihood_coef > 0

    @property
    def max_prompt_tokens(self) -> int:
        """Longest prompt that is allowed."""
        return self.rollout.max_prompt_tokens

    @property
    def all_rounds(self) -> dict[str, Round]:
        """Every round, the sealed ones first; those of `rounds` alone are in the pipeline."""
        return {**self._sealed, **self.rounds}

    @property
    def parents(self) -> dict[str, str]:
        """The parent of every round."""
        return {name: entry.parent for name, entry in self.all_rounds.items()}

    @property
    def marked(self) -> list[str]:
        """The rounds with `main: true`."""
        return [name for name, entry in self.all_rounds.items() if entry.main]

    @property
    def lines(self) -> list[list[str]]:
        """Every round in one line: the main line first, then the branches (lines.py has the rule)."""
        return lines(self.parents, self.marked)

    @property
    def last_round(self) -> str:
        """The last round of the main line, or r000 where there is none."""
        return next(reversed(main_line(self.parents, self.marked)), ROOT)

    def depth(self, name: str) -> int:
        """Return how many rounds lead to `name`, itself included; 0 for r000."""
        return len(self.lineage(name))

    def lineage(self, name: str) -> list[str]:
        """Return the rounds from the first trained one to `name`; empty for r000."""
        chain: list[str] = []
        rounds = self.all_rounds
        while name != ROOT:
            if name in chain:
                raise PipelineError(f"params.yaml: rounds.{name} is among its own ancestors; give it another parent.")
            if name not in rounds:
                child = f"rounds.{chain[-1]}.parent: " if chain else ""
                raise PipelineError(f"params.yaml: {child}no round '{name}'.{nearest(name, [ROOT, *rounds])}")
            chain.append(name)
            name = rounds[name].parent
        return chain[::-1]

    def of_round(self, name: str) -> "Params":
        """Return the settings with the overrides of round `name` put in place and checked."""
        if name == ROOT:
            return self
        entry = self.rounds[name]
        data = self.model_dump(by_alias=True)
        for key in OVERRIDABLE:
            override = getattr(entry, key)
            if key == "seed":
                data["seed"] = self.seed if override is None else override
            else:
                data[key] = {**data[key], **override}
        return _validated(Params, data, f"params.yaml (rounds.{name})")


class SealedRounds(Section):
    """The whole of sealed/rounds.yaml."""

    rounds: dict[RoundName, Round]


Model = TypeVar("Model", bound=BaseModel)


def load_params(path: Path = Path("params.yaml"), sealed: Path | None = None, settled: bool = True) -> Params:
    """Read and check params.yaml: every section, every round's lineage and overrides.

    `sealed` is the list of sealed rounds; without it the one beside `path`, where there is one. A round in both is
    half sealed or half unsealed, which only `settled=False` lets pass.

    Raises PipelineError with the setting's name for anything unknown, missing, mistyped or out of range.
    """
    params = _validated(Params, read_map(path, "sections with settings"), str(path))
    params._sealed = read_sealed(sealed or path.parent / SEALED)
    for name in params.rounds:
        if name == ROOT:
            raise PipelineError(f"{path}: rounds.{ROOT} is the untrained policy's name; give this round another.")
        if settled and name in params._sealed:
            raise PipelineError(
                f"{path}: rounds.{name} is in {SEALED} too: its sealing or unsealing was interrupted, or another round "
                "has its name. `ppo-pipeline rounds seal` and `ppo-pipeline rounds unseal ROUND` finish what was begun."
            )
    if (both := twice_marked(params.parents, params.marked)) is not None:
        raise PipelineError(
            f"{path}: rounds.{both[0]} and rounds.{both[1]} start from {params.parents[both[0]]}, and both have `main: "
            "true`; leave it to the one with which the main line goes on."
        )
    for name in params.all_rounds:
        params.lineage(name)
        if name not in params._sealed:
            params.of_round(name)
    return params


def read_sealed(path: Path) -> dict[str, Round]:
    """Return the sealed rounds by name, each with its parent and overrides; none where the file is missing.

    Their overrides were checked when they were in `rounds`: settings of today need not fit them.
    """
    if not path.is_file():
        return {}
    return _validated(SealedRounds, {"rounds": read_map(path, "rounds")}, str(path)).rounds


def _validated(cls: type[Model], data: Any, source: str) -> Model:
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise PipelineError(explain(error, cls, source)) from None
