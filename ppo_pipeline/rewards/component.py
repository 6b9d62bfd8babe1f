"""What a type of reward is made of: its settings, and how it scores. Each type is a file of types/, found by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ..engine.pool import Pool
from ..resume.snapshots import Snapshots
from ..settings.reward_sections import register
from ..settings.sections import Name, Section
from .normal_form import normalise
from .samples import Samples

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Component(Section):
    """An entry of `reward.components`. A subclass names its type, adds its settings, and scores.

    The modules of types/ are loaded with params.yaml by every command, so they import at their top what is light.
    """

    type: str
    name: Name = Field(description="Column in rewards.parquet")
    weight: Finite = Field(description="Factor in the score; 0 records the column only")

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        """Register each subclass under its type."""
        register(cls)

    def score(self, samples: Samples, snapshots: Snapshots | None = None) -> list[float]:
        """Return a reward per sample, in order.

        snapshots: where a costly type keeps finished batches (resume/kept_batches.py), so that a stage which was
        killed does not ask for them again. Raises PipelineError that names the component and the sample.
        """
        raise NotImplementedError

    def column_names(self) -> list[str]:
        """Return the names of the columns that this makes: the reward's, and others that are recorded beside it."""
        return [self.name]

    def score_on(
        self, pool: Callable[[], Pool] | None, samples: Samples, snapshots: Snapshots | None
    ) -> dict[str, list[float]]:
        """Do the same where a stage has workers; a type with a model lets these do it. pool: gives them, once asked.

        Returns each of `column_names`.
        """
        return {self.name: self.score(samples, snapshots)}

    def vote(self, response: str) -> str:
        """Return what of a response counts as its answer, where the most frequent of a prompt's answers is asked for.

        It is asked of the component that reward.correct names.
        """
        return normalise(response)

    def answer_column(self) -> str | None:
        """Return the prompt column of the answers that this compares with, where it is one that people want to see."""
        return None

    def check(self, prompts: Samples) -> None:
        """Raise PipelineError where what this reads is not there, before anything is decoded or asked for.

        prompts: a sample with an empty response for each prompt.
        """

    def loaded_model(self) -> str | None:
        """Return the folder or hub id of the model that this loads; `sources` must name a folder."""
        return None

    def files(self) -> list[Path]:
        """Return files and folders that decide the rewards besides settings and samples: kept batches end with them."""
        model = self.loaded_model()
        return [Path(model).expanduser()] if model else []

    def reads_policy_view(self) -> bool | None:
        """Tell whether this reads prompt_texts, for which `ppo-pipeline score` needs the base model's tokenizer.

        None: it may read these, or response_ids; only scoring tells.
        """
        return None
