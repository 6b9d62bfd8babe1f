"""Supervised fine-tuning, from demonstrations to the trained model and what is to be known of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...compute.machine import Machine
from ...errors import PipelineError
from ...models.loading import load_tokenizer, stop_ids_of, vocabulary_of
from ...models.policy import Policy
from ...models.reach import borders
from ...observe.counter import Counter
from ...observe.progress import result
from ...prompts.demonstrations import Demonstration
from ...prompts.rendering import Renderer
from ...prompts.taught import Ends, TaughtRow, taught_rows
from ...resume.scratch import Scratch
from ...settings.params import Params
from ...settings.supervised_sections import Sft
from .answers import Answers, Heldout
from .loop import SupervisedLoop
from .tuning import dropout_on


@dataclass(frozen=True)
class Fitted:
    """What came of the training. numbers: its metrics; curve: a row for each optimizer step."""

    numbers: dict[str, Any]
    curve: list[dict[str, float | None]]


def rows_to_learn(
    demonstrations: list[Demonstration], base: Path, model: Any, params: Params, name: str
) -> tuple[dict[str, list[TaughtRow]], int]:
    """Return the rows of each split as token ids, and how many were too long and left out.

    Raises PipelineError where one is too long and `too_long` is error, or none is left.
    """
    s: Sft = params.entry("sft", name)
    for limit, what in borders(model):
        if s.max_tokens > limit:
            raise PipelineError(
                f"params.yaml: sft.{name}.max_tokens: {s.max_tokens}, the model has {limit} positions{what}; lower it."
            )
    tokenizer = load_tokenizer(base)
    how: dict[str, Any] = {"date": params.date, "special_tokens": params.special_tokens}
    renderer = Renderer(tokenizer, params.chat_template, vocabulary=vocabulary_of(base), **how)
    ends = Ends(stop_ids_of(model, tokenizer, params.stop_tokens), tokenizer)
    found = {
        split: taught_rows([row for row in demonstrations if row.split == split], renderer, ends)
        for split in ("train", "heldout")
    }
    _tell_special_text(renderer, demonstrations, f"sft {name}")
    longer = [row for rows in found.values() for row in rows if len(row.ids) > s.max_tokens]
    if longer and s.too_long == "error":
        longest = max(len(row.ids) for row in longer)
        more = f" ({len(longer) - 1} more too long, the longest has {longest})" if len(longer) > 1 else ""
        raise PipelineError(
            f"{longer[0].name}: {len(longer[0].ids)} tokens, sft.{name}.max_tokens is {s.max_tokens}{more}; raise it, "
            "shorten the rows, or set too_long to skip."
        )
    fitting = {split: [row for row in rows if len(row.ids) <= s.max_tokens] for split, rows in found.items()}
    if not fitting["train"]:
        raise PipelineError(f"params.yaml: sft.{name}.max_tokens: every row to train on is longer; raise it.")
    return fitting, len(longer)


def _tell_special_text(renderer: Renderer, demonstrations: list[Demonstration], label: str) -> None:
    """Say how many answers have the text of a special token, which is learnt as text."""
    answers = [(row.name, [row.messages[i] for i in row.turns]) for row in demonstrations]
    hits = [(name, hit) for name, messages in answers if (hit := renderer.special_text(messages))]
    if hits:
        name, hit = hits[0]
        result(
            label,
            f"answers with special tokens' text: {len(hits)}, such as {hit!r} in {name}; it is learnt as text, not as "
            "the token (prompts.special_tokens)",
        )


def fit(
    policy: Policy, rows: dict[str, list[TaughtRow]], settings: Sft, name: str, machine: Machine, scratch: Scratch,
    counter: Counter,
) -> Fitted:  # fmt: skip
    """Train the policy on the rows of `train`; measure it on those of `heldout` before and after."""
    train, heldout = (Answers(policy, rows[split], settings.microbatch_tokens) for split in ("train", "heldout"))
    loop = SupervisedLoop(train, policy.policy_parameters(), settings, f"sft.{name}", *machine)
    counter.begin()
    before = heldout.heldout(counter, scratch.part("before")) if heldout.rows else None
    with dropout_on(policy):
        loop.run(("sft",), lambda n, tokens: told(counter, loop, n, tokens), scratch.part("steps"))
    after = heldout.heldout(counter, scratch.part("after")) if heldout.rows else None
    return Fitted(numbers_of(loop, train, heldout, before, after), loop.curve)


def told(counter: Counter, loop: SupervisedLoop, examples: int, tokens: int) -> None:
    """Tell the counter of a step: an earlier attempt's, or this one's with its numbers."""
    if not tokens:
        counter.skip(examples)
        return
    counter.advance(examples, tokens)
    counter.step(len(loop.curve), {name: value for name, value in loop.curve[-1].items() if value is not None})


def numbers_of(
    loop: SupervisedLoop, train: Answers, heldout: Answers, before: Heldout | None, after: Heldout | None
) -> dict[str, Any]:
    """Return the metrics; those of held-out rows where there are some. train/loss: mean over the last epoch."""
    last = [row["loss"] or 0.0 for row in loop.curve[-loop.steps_per_epoch :]]
    numbers: dict[str, Any] = {
        "train/loss": sum(last) / len(last),
        "train/rows": len(train.rows),
        "train/answer_tokens": int(train.weights.sum()),
        "train/steps": sum(row["grad_norm"] is not None for row in loop.curve),
    }
    if before is not None and after is not None:
        numbers |= {
            "eval/rows": len(heldout.rows),
            "eval/loss_before": before.loss,
            "eval/loss": after.loss,
            "eval/mean_token_accuracy_before": before.token_accuracy,
            "eval/mean_token_accuracy": after.token_accuracy,
        }
    return numbers
