"""What `ppo-pipeline chat` asks: texts of its user, or prompts of the training set."""

from typing import Any, NamedTuple

import pyarrow.compute as pc

from ..errors import PipelineError
from ..project.paths import Paths
from ..prompts.conversations import Messages, with_system
from ..prompts.rendering import Renderer, render_all
from ..settings.params import Params
from ..tables.prompts import PROMPTS

SET = Paths().prompts
TAKEN = ("base", "trained", "round")  # what stands beside them


class Question(NamedTuple):
    """A conversation that a model is to go on with.

    ids: its tokens. stream: what an answer's random numbers depend on besides the seed; the text itself, or a prompt's
    id, which is its own in the set. told: what is said of it beside the answers, by column.
    """

    ids: list[int]
    stream: str
    told: dict[str, Any]


def of_texts(tokenizer: Any, params: Params, texts: list[str], vocabulary: int) -> list[Question]:
    """Return each text as a user's only message, after the system prompt of the settings.

    vocabulary: how many tokens the model has. Raises PipelineError for a text that cannot be rendered, or has no token.
    """
    return of_talks(tokenizer, params, [[{"role": "user", "content": text}] for text in texts], vocabulary)


def of_talks(tokenizer: Any, params: Params, talks: list[Messages], vocabulary: int) -> list[Question]:
    """Return the same of conversations, each of which ends in a user's message: the prompt."""
    texts = [talk[-1]["content"] for talk in talks]
    names = [f"the prompt '{text:.40}'" for text in texts]
    conversations = [with_system(talk, params.prompts.system) for talk in talks]
    renderer = Renderer(tokenizer, params.chat_template, params.date, params.special_tokens, vocabulary)
    _, rendered = renderer.texts_and_ids(conversations, names)
    for ids, name in zip(rendered, names, strict=True):
        if not ids:
            raise PipelineError(f"{name} has no token; write something.")
    return [Question(ids, text, {"prompt_id": None, "prompt": text}) for ids, text in zip(rendered, texts, strict=True)]


def of_split(tokenizer: Any, params: Params, split: str, limit: int, vocabulary: int) -> tuple[list[Question], int]:
    """Return the first `limit` prompts of a split, in the table's order, and how many it has.

    They are rendered, and refused by PipelineError, as in the stages `rollout` and `evaluate`; so is a missing or
    damaged table, or a split without prompts.
    """
    if not SET.is_file():
        raise PipelineError(f"{SET}: not here; `dvc repro prompts` makes it, `dvc pull` fetches it.")
    table = PROMPTS.read(SET)
    table = table.filter(pc.equal(table.column("split"), split))
    if not table.num_rows:
        raise PipelineError(f"{SET}: no prompt has the split '{split}'; take the other one.")
    rows = table.slice(0, limit).to_pylist()
    rendered = render_all(
        tokenizer,
        [row["prompt_id"] for row in rows],
        [row["messages"] for row in rows],
        params.chat_template,
        params.max_prompt_tokens,
        date=params.date,
        special_tokens=params.special_tokens,
        vocabulary=vocabulary,
    )
    compared = [component.answer_column() for component in params.reward.components]
    answers = list(dict.fromkeys(name for name in compared if name)) or ["expected"]
    questions = []
    for row, (_, ids) in zip(rows, rendered, strict=True):
        told = {"prompt_id": row["prompt_id"], "prompt": said(row["messages"])}
        told |= {name: row[name] for name in answers if name in row and name not in (*told, *TAKEN)}
        questions.append(Question(ids, row["prompt_id"], told))
    return questions, table.num_rows


def said(messages: Messages) -> str:
    """Return the user's last message; the last of any where the user has none."""
    by_user = [message["content"] for message in messages if message["role"] == "user"]
    return by_user[-1] if by_user else messages[-1]["content"]
