"""Pairs of answers as token ids, the same as a reward of type `model` reads of responses: prompts/answer_inputs.py."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ...errors import PipelineError
from ...prompts.answer_inputs import chat_input, check_template, concat_input, encode
from ...prompts.rendering import Renderer
from ...settings.reward_model_sections import RewardModel


@dataclass(frozen=True)
class Asked:
    """Pairs as token ids, whose rewards a model is asked for.

    names: of the pairs, for errors. rows: of the table, in order (n,). chosen, rejected: of prompt with answer.
    skipped: rows that are left out for their length. alike: rows whose answers are the same tokens to the model, which
    teach it nothing.
    """

    names: list[str]
    rows: list[int]
    chosen: list[list[int]]
    rejected: list[list[int]]
    skipped: list[int]
    alike: list[int]

    def largest_id(self) -> int:
        """Return the largest token id."""
        return max((max(ids) for ids in [*self.chosen, *self.rejected]), default=0)


def pair_inputs(
    pairs: pa.Table, tokenizer: Any, settings: RewardModel, shown: dict[str, Any], names: list[str], section: str
) -> Asked:
    """Return the token ids of both answers of each pair.

    shown: how the policy is shown prompts, arguments of a Renderer, for input concat. names: of the pairs, section: of
    params.yaml, for errors. Raises PipelineError for a pair that is longer than `max_tokens` and may not be skipped,
    that the template refuses, or that makes no token.
    """
    messages = pairs.column("messages").to_pylist()
    answers = [pairs.column(name).to_pylist() for name in ("chosen", "rejected")]
    if settings.input == "chat":
        check_template(tokenizer, f"params.yaml: {section}.input")
        prompts = [""] * len(messages)
    else:
        prompts, _ = Renderer(tokenizer, **shown).texts_and_ids(messages, names)
    found = Asked([], [], [], [], [], [])
    for row, name in enumerate(names):
        both = []
        for answer in answers:
            if settings.input == "chat":
                text, options = chat_input(tokenizer, messages[row], answer[row], name)
            else:
                text, options = concat_input(tokenizer, prompts[row], answer[row])
            both.append(encode(tokenizer, [text], options)["input_ids"])
        if not all(both):
            raise PipelineError(f"{name}: the model's tokenizer makes no token of an answer.")
        if max(map(len, both)) > settings.max_tokens:
            found.skipped.append(row)
            continue
        found.names.append(name)
        found.rows.append(row)
        found.chosen.append(both[0])
        found.rejected.append(both[1])
        if both[0] == both[1]:
            found.alike.append(row)
    if found.skipped and settings.too_long == "error":
        raise PipelineError(
            f"{names[found.skipped[0]]}: an answer with its prompt is longer than {section}.max_tokens, "
            f"{settings.max_tokens} ({len(found.skipped)} of {len(names)} pairs); raise it, or set too_long to skip."
        )
    return found
