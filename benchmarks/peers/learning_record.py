"""What is noted of a learner: seconds, scores and KL of each update, and held-out answers every few updates."""

import json
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, TrainerCallback

from benchmarks.peers.learning_task import Task
from ppo_pipeline.models.loading import stop_ids_of


class Record(TrainerCallback):  # type: ignore[misc]
    """Writes a learner's curve. The clock starts with the training and stands still while this looks at the model.

    steps: optimizer steps of the trainer in an update of `samples` responses. `model` is set before the training.
    """

    def __init__(self, task: Task, given: Namespace, trainer: str, settings: dict[str, Any], steps: int) -> None:
        self.task, self.given, self.steps = task, given, steps
        self.model: Any = None
        self._scores: dict[str, list[float]] = {}
        self._kl = float("nan")
        self._start, self._aside = 0.0, 0.0
        versions = {name: version(name) for name in ("trl", "transformers", "torch", "peft")}
        device = torch.cuda.get_device_name() if given.device == "cuda" else "cpu"
        self.found: dict[str, Any] = {
            "trainer": trainer, "settings": given.settings, "seed": given.seed, "samples": given.samples,
            "device": device, "versions": versions, "of_the_trainer": settings, "train": [], "eval": [],
        }  # fmt: skip

    @property
    def stops(self) -> list[int]:
        """The ids that end a response."""
        return stop_ids_of(self.model, self.task.tokenizer, self.task.params.stop_tokens)

    def reward(self, prompt_ids: list[str], responses: list[list[int]]) -> list[float]:
        """Return the scores of sampled responses, and note them."""
        scores = self.task.score(prompt_ids, responses, self.stops)
        for name, numbers in scores.items():
            self._scores.setdefault(name, []).extend(numbers)
        return scores["score"]

    def kl(self, nats: float) -> None:
        """Note the update's KL: mean over responses of the sum over tokens of logprob less the base's (k1)."""
        self._kl = nats

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Stop the clock."""
        before = self._now()
        yield
        self._aside += self._now() - before

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Evaluate the untrained model and start the clock."""
        self._evaluate(0)
        self._start, self._aside = self._now(), 0.0

    def on_step_end(self, _args: Any, state: Any, _control: Any, **__: Any) -> None:
        """After the last step of an update, note what it was; evaluate every few updates and after the last."""
        if state.global_step % self.steps:
            return
        with self.aside():
            update = state.global_step // self.steps
            counts = {len(numbers) for numbers in self._scores.values()}
            if counts != {self.given.samples}:
                raise RuntimeError(f"update {update} has {counts} scored responses, not {self.given.samples}")
            row = {"update": update, "samples": update * self.given.samples, "seconds": self.seconds, "kl": self._kl}
            self.found["train"].append(row | means(self._scores))
            self._scores = {}
            if update % self.given.evaluate_every == 0 or update == self.given.rounds:
                self._evaluate(update)
            self.given.out.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")

    @property
    def seconds(self) -> float:
        """Seconds of the training so far."""
        return self._now() - self._start - self._aside

    def _now(self) -> float:
        if self.given.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _evaluate(self, update: int) -> None:
        settings = self.task.params.evaluate
        names = self.task.split("heldout").column("prompt_id").to_pylist()
        prompts = [self.task.ids[name] for name in names]
        answers = greedy(self.model, prompts, self.stops, settings.max_new_tokens, settings.batch_size)
        row = {"update": update, "samples": update * self.given.samples, "prompts": len(names)}
        row["seconds"] = self.found["train"][-1]["seconds"] if update else 0.0
        self.found["eval"].append(row | means(self.task.score(names, answers, self.stops)))


def means(scores: dict[str, list[float]]) -> dict[str, float]:
    """Return the mean of each column."""
    return {name: float(np.mean(numbers)) for name, numbers in scores.items()}


@torch.no_grad()
def greedy(model: Any, prompts: list[list[int]], stops: list[int], new_tokens: int, batch: int) -> list[list[int]]:
    """Return the most likely continuation of each prompt, up to and with its stop token."""
    training, answers = model.training, []
    model.eval()
    how = GenerationConfig(
        do_sample=False, max_new_tokens=new_tokens, eos_token_id=stops, pad_token_id=stops[0], use_cache=True
    )
    for start in range(0, len(prompts), batch):
        rows = prompts[start : start + batch]
        width = max(map(len, rows))
        ids = torch.tensor([[stops[0]] * (width - len(row)) + row for row in rows], device=model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
        found = model.generate(input_ids=ids, attention_mask=mask, generation_config=how)
        answers += [ended(row, stops) for row in found[:, width:].tolist()]
    model.train(training)
    return answers


def ended(ids: list[int], stops: list[int]) -> list[int]:
    """Return the response's own tokens: nothing behind its first stop token."""
    end = next((i + 1 for i, token in enumerate(ids) if token in stops), len(ids))
    return ids[:end]
