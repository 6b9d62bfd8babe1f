"""What every learner of a comparison is given: the run's prompts, the project's own reward, and held-out questions."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ppo_pipeline.models.loading import load_tokenizer, vocabulary_of
from ppo_pipeline.prompts.rendering import render_all
from ppo_pipeline.rewards.scoring import check_prompts, correct_of, join_prompts, score_samples
from ppo_pipeline.sampling.response import Response
from ppo_pipeline.settings.params import Params, load_params
from ppo_pipeline.tables.prompts import PROMPTS


def arguments(about: str) -> argparse.ArgumentParser:
    """Return the arguments that each learner takes."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--base", type=Path, required=True, help="the base model, a plain transformers folder")
    parser.add_argument("--prompts", type=Path, required=True, help="the project's prompts.parquet")
    parser.add_argument("--params", type=Path, required=True, help="the project's params.yaml")
    parser.add_argument("--out", type=Path, required=True, help="JSON, written anew after each update")
    parser.add_argument("--rounds", type=int, default=20, help="updates (%(default)s)")
    parser.add_argument("--samples", type=int, default=64, help="responses of an update (%(default)s)")
    parser.add_argument("--evaluate-every", type=int, default=4, help="updates between evaluations (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", choices=("docs", "ours"), default="docs",
                        help="what TRL's documentation recommends, or what params.yaml says")  # fmt: skip
    parser.add_argument("--lr", type=float, help="a learning rate instead of that of the settings")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser


@dataclass
class Task:
    """The prompts as the model sees them, and what answers to them are worth."""

    base: Path
    params: Params
    prompts: pa.Table
    tokenizer: Any
    texts: dict[str, str]  # by prompt id
    ids: dict[str, list[int]]

    @classmethod
    def read(cls, base: Path, prompts: Path, params: Path) -> "Task":
        """Read all of it; raise PipelineError as the stages do, before anything is learned."""
        settings, table, tokenizer = load_params(params), PROMPTS.read(prompts), load_tokenizer(base)
        check_prompts(settings.reward, table)
        names = table.column("prompt_id").to_pylist()
        rendered = render_all(
            tokenizer, names, table.column("messages").to_pylist(), settings.chat_template, settings.max_prompt_tokens,
            date=settings.date, special_tokens=settings.special_tokens, vocabulary=vocabulary_of(base),
        )  # fmt: skip
        texts, ids = ([each[i] for each in rendered] for i in (0, 1))
        return cls(
            base, settings, table, tokenizer, dict(zip(names, texts, strict=True)), dict(zip(names, ids, strict=True))
        )

    def split(self, name: str) -> pa.Table:
        """Return the prompts of a split; `evaluate.max_prompts` counts for the held-out ones."""
        rows = self.prompts.filter(pc.equal(self.prompts.column("split"), name))
        return rows.slice(0, self.params.evaluate.max_prompts or None) if name == "heldout" else rows

    def score(self, prompt_ids: list[str], responses: list[list[int]], stops: list[int]) -> dict[str, list[float]]:
        """Return `score`, each component and, where it is set, `correct`, as the stages `reward` and `evaluate` do.

        responses: token ids, each with the stop token that ended it, one of `stops`.
        """
        ends = ["stop" if ids and ids[-1] in stops else "length" for ids in responses]
        ended = [Response(ids, finish_reason=end) for ids, end in zip(responses, ends, strict=True)]
        answers = [response.text(self.tokenizer) for response in ended]
        texts = [self.texts[name] for name in prompt_ids]
        samples = join_prompts(prompt_ids, prompt_ids, texts, answers, responses, self.prompts)
        scores = score_samples(self.params.reward, samples)
        correct = correct_of(self.params.reward, scores)
        return scores if correct is None else {**scores, "correct": [float(right) for right in correct]}
