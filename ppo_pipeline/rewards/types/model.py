"""Rewards from a sequence classification model."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ...engine.pool import Pool
from ...observe.progress import progress
from ...resume.kept_batches import KeptBatches
from ...resume.snapshots import Snapshots
from ...settings.as_before import AsBefore
from ...settings.reward_model_sections import TRAINED_HERE
from ...settings.sections import Count
from ..component import Component
from ..samples import Samples


class ModelComponent(Component):
    """A reward computed by a sequence classification model; the model's own Python code never runs."""

    type: Literal["model"]
    model: str = Field(
        description="Folder of a transformers model, or hub id owner/name; with `ensemble` a folder of several, named "
        "1, 2, ..., as the stage `reward_model` writes them",
        min_length=1,
    )
    ensemble: Annotated[Literal["mean", "worst"] | None, AsBefore(None)] = Field(
        description="What counts of several models' rewards: their mean or the lowest one; the column <name>_std has "
        "their standard deviation (Coste et al. 2023). null: a single model"
    )
    revision: str | None = Field(
        description="Commit or tag of a hub model; null for its default branch, which may change. null for a folder"
    )
    pickled_weights: bool = Field(
        description="Where a model has no safetensors file, read pytorch_model.bin with torch's weights-only "
        "unpickler, which makes tensors and no other objects (torch >= 2.10: CVE-2026-24747). false: an error"
    )
    input: Literal["pair", "concat", "chat"] = Field(
        description="pair: the messages as plain text, and the response, as two segments; concat: the response after "
        "the prompt as the policy saw it; chat: by the reward model's own chat template"
    )
    label: str | int | None = Field(
        description="Label whose logit is the reward, by name or index; null where the model has a single one"
    )
    output: Literal["logit", "probability"] = Field(
        description="logit: the model's number; probability: its sigmoid, or the label's share of the softmax"
    )
    max_tokens: Count = Field(description="Longest input, special tokens included")
    too_long: Literal["error", "cut_start", "cut_end"] = Field(
        description="A longer input: an error; cut at the start (pair: of the prompt), or at the end (pair: of the "
        "response). How many were cut is printed"
    )
    batch_tokens: Count = Field(description="Tokens of a batch of similar lengths, padding included")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(description="auto takes cuda, then mps, then cpu")
    dtype: Literal["auto", "bf16", "fp32"] = Field(
        description="Dtype of the model; auto takes bf16 where the machine computes it fast"
    )

    def score(self, samples: Samples, snapshots: Snapshots | None = None) -> list[float]:
        """Return the model's logit (or probability) for each sample, computed in batches of similar length.

        Padding is on the right and masked. A model whose configuration names no padding token is asked for one sample
        at a time, as it would take the padding for text. snapshots: where finished batches are kept.
        Raises PipelineError where the model cannot be loaded, its labels do not fit `label`, or a sample's input is
        longer than `max_tokens` and may not be cut.
        """
        return self.score_on(None, samples, snapshots)[self.name]

    def column_names(self) -> list[str]:
        """Return the reward's column, and of an ensemble that of its members' standard deviation."""
        return [self.name] if self.ensemble is None else [self.name, f"{self.name}_std"]

    def score_on(
        self, pool: Callable[[], Pool] | None, samples: Samples, snapshots: Snapshots | None
    ) -> dict[str, list[float]]:
        """Do so by the workers of a pool, batch by batch, each of an ensemble's members in turn."""
        from ...engine.local import LocalPool

        if not len(samples):
            return {name: [] for name in self.column_names()}
        workers, members = pool() if pool else LocalPool(), self._members()
        rewards = np.zeros((len(members), len(samples)))
        for number, member in enumerate(members):
            kept = snapshots if self.ensemble is None or snapshots is None else snapshots.part(f"member-{number + 1}")
            member._fill(rewards[number], workers, samples, kept)
        combined = rewards.min(0) if self.ensemble == "worst" else rewards.mean(0)
        return dict(zip(self.column_names(), [combined.tolist(), rewards.std(0).tolist()], strict=False))

    def _members(self) -> list["ModelComponent"]:
        """Return the components of the single models."""
        from ..model_files import member_folders

        if self.ensemble is None:
            return [self]
        folders = member_folders(self.model, f"reward '{self.name}': ensemble")
        return [self.model_copy(update={"model": str(folder), "ensemble": None}) for folder in folders]

    def _fill(self, rewards: NDArray[np.float64], workers: Pool, samples: Samples, snapshots: Snapshots | None) -> None:
        """Put the reward of each sample by this single model into `rewards`."""
        from ..classifier import ClassifyWork

        batches = workers.open(ClassifyWork(self, samples))
        kept = KeptBatches(snapshots, {"rewards": rewards}, batches)
        with kept, progress(len(samples), f"reward {self.name}", "samples") as counter:
            left = kept.left()
            for place, found in workers.run([batches[number] for number in left], counter):
                rewards[batches[left[place]]] = found
                kept.finish(left[place])

    def check(self, prompts: Samples) -> None:
        """Raise PipelineError where a local model is not there; one that is to be trained here may not be there yet."""
        from ..model_files import local_folder

        if not self.model.startswith(TRAINED_HERE) or Path(self.model).is_dir():
            for member in self._members():
                local_folder(member, f"reward '{self.name}': model")

    def loaded_model(self) -> str:
        """Return the folder or hub id."""
        return self.model

    def reads_policy_view(self) -> bool:
        """Tell whether the prompt is part of the input as the policy saw it."""
        return self.input == "concat"
