"""A project opened from Python: `ppo_pipeline.open(".")`. It reads what the stages wrote, and changes nothing."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from ..errors import PipelineError, nearest
from ..settings.params import ROOT, Params, load_params
from ..storage.files import read_json
from ..tables.advantages import ADVANTAGES
from ..tables.evaluation import EVALUATION, EVALUATION_SAMPLES
from ..tables.joined import with_neighbours
from ..tables.prompts import PROMPTS
from ..tables.reference import REFERENCE
from ..tables.rewards import REWARDS
from ..tables.rollouts import ROLLOUTS
from .best_round import standings
from .paths import Paths
from .plan.as_run import metrics_of
from .policies import base_folder, merged_model, params_of_round, policy_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class LoadedPolicy(NamedTuple):
    """A policy as transformers has it: a plain model with the LoRA merged, and its tokenizer."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"


class Run:
    """A project folder, opened to read. Tables are pyarrow's, checked as they are read; `.to_pandas()` converts one.

    root: the project's folder. params: its settings, typed. Every method raises PipelineError for a round that
    params.yaml does not have, and for a file that is missing or damaged, with what brings it.
    """

    def __init__(self, folder: str | os.PathLike[str] = ".") -> None:
        self.root = Path(folder)
        self.params: Params = load_params(self.root / "params.yaml")

    def __repr__(self) -> str:
        return f"<ppo_pipeline run in {str(self.root)!r}: {len(self.rounds) - 1} rounds>"

    @property
    def rounds(self) -> list[str]:
        """The rounds' names, sealed ones too; r000, the untrained policy, is the first."""
        return [ROOT, *self.params.all_rounds]

    def settings(self, name: str) -> Params:
        """Return the settings of a round: those of params.yaml with what the round has for itself."""
        self.paths(name)
        return self.params if name == ROOT else params_of_round(self.params, name)

    def paths(self, name: str) -> Paths:
        """Return where the files of a round lie, such as `run.paths("r004").policy`, a PEFT adapter folder."""
        if name not in self.rounds:
            raise PipelineError(f"{self.root / 'params.yaml'}: no round '{name}'.{nearest(name, self.rounds)}")
        parent = "" if name == ROOT else self.params.all_rounds[name].parent
        return Paths(name, parent, self.root, self.params.start)

    def prompts(self) -> pa.Table:
        """Return the prompts, training and held-out."""
        return PROMPTS.read(Paths(root=self.root).prompts)

    def rollouts(self, name: str) -> pa.Table:
        """Return the responses that a round sampled, with the policy of its parent."""
        return ROLLOUTS.read(self._trained(name).rollouts)

    def rewards(self, name: str) -> pa.Table:
        """Return their scores, and each component's reward."""
        return REWARDS.read(self._trained(name).rewards)

    def reference(self, name: str) -> pa.Table:
        """Return their tokens' logprobs under policy and reference, values and entropies."""
        return REFERENCE.read(self._trained(name).reference)

    def advantages(self, name: str) -> pa.Table:
        """Return their tokens' rewards, advantages and returns."""
        return ADVANTAGES.read(self._trained(name).advantages)

    def samples(self, name: str) -> pa.Table:
        """Return a row per response with what all tables say of it: prompt, score, components, KL, means of tokens."""
        path = self._trained(name).rollouts
        return with_neighbours(ROLLOUTS, ROLLOUTS.read(path), path)

    def evaluation(self, name: str) -> pa.Table:
        """Return a round's greedy answers to the held-out prompts, with their scores."""
        return EVALUATION.read(self.paths(name).evaluation)

    def evaluation_samples(self, name: str) -> pa.Table:
        """Return its sampled answers to them; no rows with evaluate.samples_per_prompt: 0."""
        return EVALUATION_SAMPLES.read(self.paths(name).evaluation_samples)

    def metrics(self) -> pa.Table:
        """Return a row per round that has run: round, parent, depth, and each metric by its name.

        A metric that a round lacks is null there. A fresh clone has them too: git keeps metrics/rounds/.
        Training metrics are of the policy that sampled, the parent's; those that start with eval/ are of the round's
        own.
        """
        found = {name: self._metrics(name) for name in self.rounds}
        names = sorted({metric for numbers in found.values() for metric in numbers})
        rows = [
            {"round": name, "parent": self.paths(name).parent, "depth": self.params.depth(name)}
            | {metric: numbers.get(metric) for metric in names}
            for name, numbers in found.items()
            if numbers
        ]
        return pa.Table.from_pylist(rows)

    def best(self, by: str = "scores") -> str:
        """Return the round of the highest eval/`by`, as `ppo-pipeline best` does; that command says how sure it is."""
        return standings(self.params, by.removeprefix("eval/"), self.root)[0].round

    def policy(self, name: str, *, average: bool = False, device: str = "cpu") -> LoadedPolicy:
        """Load a round's policy as a plain transformers model, LoRA merged, and its tokenizer. Imports torch.

        average: the mean of the last rounds' policies instead (update.average_rounds).
        """
        self.paths(name)
        folder = policy_folder(self.params, name, average, self.root)
        base = base_folder(self.params, self.root)
        from ..models.loading import load_tokenizer

        return LoadedPolicy(merged_model(base, folder, device), load_tokenizer(base))

    def _metrics(self, name: str) -> dict[str, Any]:
        file = Paths(root=self.root).round_metrics / f"{name}.json"
        return metrics_of(self.params, name, self.root) or (read_json(file) if file.is_file() else {})

    def _trained(self, name: str) -> Paths:
        if name == ROOT:
            raise PipelineError(f"{ROOT} is the untrained policy: nothing was sampled to train it; name another round.")
        return self.paths(name)
