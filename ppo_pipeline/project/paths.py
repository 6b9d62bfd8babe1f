"""Where the files of a project and of its rounds lie: the one place that spells their paths."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """The files of a project, and of one round where `round` names it. dvc.yaml has the same paths.

    parent: the round that this one starts from, where its files are asked for. root: the project's folder.
    start: `policy.start` of the settings, the base model or what supervised training made of it.
    """

    round: str = ""
    parent: str = ""
    root: Path = Path()
    start: str = "data/base"

    @property
    def base(self) -> Path:
        """The model that the policies start from, a plain transformers folder."""
        return self.root / self.start

    @property
    def prompts(self) -> Path:
        """The prompts, training and held-out."""
        return self.root / "data/prompts.parquet"

    def dataset(self, name: str) -> Path:
        """Rows of a hub's data set, of an entry of `datasets`."""
        return self.root / f"data/datasets/{name}.parquet"

    def preferences(self, name: str) -> Path:
        """Pairs of answers, training and held-out, of an entry of `preferences`."""
        return self.root / f"data/preferences/{name}.parquet"

    def reward_model(self, name: str) -> Path:
        """A trained reward model, or a folder of several, of an entry of `reward_model`."""
        return self.root / f"data/reward_model/{name}"

    def reward_model_eval(self, name: str) -> Path:
        """Held-out pairs with its rewards."""
        return self.root / f"data/reward_model_eval/{name}.parquet"

    @property
    def code_folder(self) -> Path:
        """Fingerprints of the stages' code, a file for each."""
        return self.root / "data/code"

    @property
    def settings_folder(self) -> Path:
        """Effective settings, a folder for each round."""
        return self.root / "data/settings"

    @property
    def models(self) -> Path:
        """Hashes of local models, by what loads them."""
        return self.root / "data/models"

    @property
    def sources(self) -> Path:
        """Hashes of local models, a folder for each name in `sources`."""
        return self.root / "data/sources"

    @property
    def rounds(self) -> Path:
        """The rounds' artifacts, a folder for each."""
        return self.root / "data/rounds"

    @property
    def stage_metrics(self) -> Path:
        """The stages' metrics, a folder for each round."""
        return self.root / "metrics/stages"

    @property
    def round_metrics(self) -> Path:
        """Each round's metrics in one file."""
        return self.root / "metrics/rounds"

    @property
    def seed_metrics(self) -> Path:
        """What runs with several seeds have in common, a file for each such run."""
        return self.root / "metrics/seeds"

    @property
    def sealed_metrics(self) -> Path:
        """Sealed rounds' metrics, a file for each."""
        return self.root / "sealed/metrics"

    def curve(self, name: str) -> Path:
        """A learning curve that `dvc plots` draws: training, heldout or critic."""
        return self.root / f"metrics/{name}.csv"

    @property
    def summary(self) -> Path:
        """Where the learning curve ends."""
        return self.root / "metrics/summary.json"

    def sft(self, name: str) -> Path:
        """What supervised training makes of the base model, a plain transformers folder."""
        return self.root / "data/sft" / name

    def named_metrics(self, stage: str, name: str) -> Path:
        """The metrics of a stage that belongs to no round."""
        return self.root / "metrics" / stage / f"{name}.json"

    def code(self, stage: str) -> Path:
        """The fingerprint of a stage's code."""
        return self.code_folder / f"{stage}.json"

    def source(self, name: str) -> Path:
        """The record of a local model's files."""
        return self.sources / name / "files.json"

    # Of the round.

    def settings(self, stage: str) -> Path:
        """A stage's effective settings."""
        return self.settings_folder / self.round / f"{stage}.json"

    def metrics(self, stage: str) -> Path:
        """A stage's metrics."""
        return self.stage_metrics / self.round / f"{stage}.json"

    @property
    def folder(self) -> Path:
        """The round's artifacts."""
        return self.rounds / self.round

    @property
    def policy(self) -> Path:
        """The policy: a PEFT adapter folder, or a whole model."""
        return self.folder / "policy"

    @property
    def trainer(self) -> Path:
        """Critic, optimizer and counters."""
        return self.folder / "trainer"

    @property
    def average(self) -> Path:
        """The mean of the last rounds' policies, where there is one: a PEFT adapter folder."""
        return self.folder / "average"

    @property
    def rollouts(self) -> Path:
        """The sampled responses."""
        return self.folder / "rollouts.parquet"

    @property
    def rewards(self) -> Path:
        """Their scores."""
        return self.folder / "rewards.parquet"

    @property
    def reference(self) -> Path:
        """Policy and reference logprobs and values of their tokens."""
        return self.folder / "reference.parquet"

    @property
    def advantages(self) -> Path:
        """Token rewards, advantages and returns."""
        return self.folder / "advantages.parquet"

    @property
    def controllers(self) -> Path:
        """The state of the KL coefficient and of the scores' scale after the round."""
        return self.folder / "controllers.json"

    @property
    def prompt_scores(self) -> Path:
        """What is remembered of each prompt after the round."""
        return self.folder / "prompt_scores.parquet"

    @property
    def evaluation(self) -> Path:
        """Greedy answers to the held-out prompts, scored."""
        return self.folder / "eval.parquet"

    @property
    def evaluation_samples(self) -> Path:
        """Sampled answers to them, scored; no rows where none are asked for."""
        return self.folder / "eval_samples.parquet"

    # Of its parent.

    @property
    def parent_policy(self) -> Path:
        """The policy that samples in this round and that the update starts from."""
        return self.rounds / self.parent / "policy"

    @property
    def parent_trainer(self) -> Path:
        """Its critic, optimizer and counters."""
        return self.rounds / self.parent / "trainer"

    @property
    def parent_state(self) -> Path:
        """The counters alone, the controllers' state among them."""
        return self.parent_trainer / "state.json"

    @property
    def parent_prompt_scores(self) -> Path:
        """What is remembered of each prompt before the round."""
        return self.rounds / self.parent / "prompt_scores.parquet"
