"""`ppo-pipeline chat`: a trained policy beside the base model."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ..errors import PipelineError
from ..project.policies import base_folder, params_of_round, policy_folder
from ..prompts.conversations import Messages
from ..settings.params import Params, load_params
from ..tables.prompts import SPLITS
from .literal import literal
from .printed import json_text, note, on_terminal, print_table
from .questions import Question, of_split, of_talks, of_texts
from .round_named import round_named

if TYPE_CHECKING:
    from ..sampling.generate import Engine

SHOWN = 10  # prompts of a split, unless --limit says otherwise
CLEAR = "/clear"
COLDEST = 1e-6  # logits divided by much less are beyond what fp32 holds


class Manner(NamedTuple):
    """How answers are chosen. temperature 0: greedily, else top_k and top_p are as in the settings of `rollout`.

    engine: own or vllm; None: as `evaluate` has it.
    """

    temperature: float
    top_p: float | None
    top_k: int | None
    max_new_tokens: int
    seed: int
    engine: str | None


def finite(ctx: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """Return the option's value; refuse nan and inf, which pass a range check of floats."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number.", ctx, parameter)
    return value


@click.command()
@click.option("--round", "name", required=True, help="Round whose policy answers, such as r004; or best.")
@click.option("--system", help="System message in place of prompts.system; an empty one is none.")
@click.option("--prompt", "prompts", multiple=True, help="Prompt to answer; can be repeated.")
@click.option("--split", type=click.Choice(SPLITS), help="Answer the prompts of data/prompts.parquet with this split.")
@click.option("--limit", type=click.IntRange(min=1), help=f"Prompts of --split, the first ones; {SHOWN} unless given.")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=0.0,
    callback=finite,
    help="0 (the default) answers greedily.",
)
@click.option(
    "--top-p",
    type=click.FloatRange(min=0, min_open=True, max=1),
    callback=finite,
    help="Sample from the fewest tokens, likeliest first, that hold this share of what --top-k left.",
)
@click.option("--top-k", type=click.IntRange(min=1), help="Sample from the k likeliest tokens.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=128, show_default=True)
@click.option("--seed", type=int, default=0, help="Seed of the sampled answers.")
@click.option("--engine", type=click.Choice(["own", "vllm"]), help="What answers; evaluate.engine unless given.")
@click.option("--average", is_flag=True, help="The mean of the last rounds' policies: update.average_rounds.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines, one per prompt.")
def chat(
    name: str, system: str | None, prompts: tuple[str, ...], split: str | None, limit: int | None, temperature: float,
    top_p: float | None, top_k: int | None, max_new_tokens: int, seed: int, engine: str | None,
    average: bool, as_json: bool,
) -> None:  # fmt: skip
    """Answer prompts with a round's policy and with the base model, side by side.

    The prompts are those of --prompt, or of --split. Without either they are asked for, and are a conversation: each
    model goes on from its own answers, until /clear.
    """
    manner = Manner(temperature, top_p, top_k, max_new_tokens, seed, engine)
    refuse(system, prompts, split, limit, as_json, manner)
    params = load_params(Path("params.yaml"))
    name = round_named(params, name)
    folder = policy_folder(params, name, average)
    params = with_system_prompt(params_of_round(params, name), system)
    if average:
        name = f"{name} averaged"
    base = base_folder(params)

    from ..models.loading import load_tokenizer, vocabulary_of

    tokenizer, vocabulary = load_tokenizer(base), vocabulary_of(base)
    if split is None and not prompts:
        converse(name, folder, tokenizer, params, vocabulary, manner)
        return
    if split is None:
        questions, of = of_texts(tokenizer, params, list(prompts), vocabulary), ""
    else:
        questions, count = of_split(tokenizer, params, split, limit or SHOWN, vocabulary)
        of = f"{len(questions)} of {count} {split} prompts; "
    rows = compared(name, folder, tokenizer, params, questions, manner)
    if as_json:
        for row in rows:
            click.echo(json_text(row))
        if of:
            click.echo(f"{of}trained: {name}", err=True)
    elif split is None and on_terminal():
        print_pairs(rows)
    else:
        print_rows(rows, f"{of}trained: {name}")


def with_system_prompt(params: Params, system: str | None) -> Params:
    """Return the settings with another system message, none where `system` is empty; None leaves theirs."""
    if system is None:
        return params
    return params.model_copy(update={"prompts": params.prompts.model_copy(update={"system": system or None})})


def refuse(
    system: str | None, prompts: tuple[str, ...], split: str | None, limit: int | None, as_json: bool, manner: Manner
) -> None:
    """Raise click.UsageError for options that do not go together."""
    if system is not None and split is not None:
        raise click.UsageError("--system is not for --split, whose prompts bring theirs; set prompts.system for them.")
    if split is not None and prompts:
        raise click.UsageError("--split and --prompt do not go together; give one of them.")
    if as_json and split is None and not prompts:
        raise click.UsageError("--json needs to know the prompts: give --split or --prompt too.")
    if limit is not None and split is None:
        raise click.UsageError("--limit is of the prompts of --split; give --split too, or leave it out.")
    if 0 < manner.temperature < COLDEST:
        raise click.UsageError(f"--temperature must be 0, which answers greedily, or at least {COLDEST:g}.")
    if not manner.temperature and (manner.top_p is not None or manner.top_k is not None):
        raise click.UsageError(
            "--top-p and --top-k are of sampling; temperature 0 (the default) takes the likeliest token: leave them "
            "out, or give a --temperature above 0."
        )


def openers(tokenizer: Any, params: Params, folder: Path, manner: Manner) -> list[Callable[[], "Engine"]]:
    """Return what opens an engine with the base model, and one with the policy, on the device of `compute`."""
    from ..compute.machine import set_up
    from ..sampling.generate import Model, Sampling, open_engine
    from ..sampling.truncation import Truncation

    sampling = Sampling(
        manner.max_new_tokens, params.rollout.batch_size, manner.temperature or 1.0,
        Truncation(manner.top_k, manner.top_p), tuple(params.stop_tokens),
        max_prompt_tokens=params.max_prompt_tokens, vllm=params.vllm,
    )  # fmt: skip
    machine, engine = set_up(params.compute), manner.engine or params.evaluate.engine
    models = [Model(base_folder(params), tokenizer, policy, *machine) for policy in (None, folder)]
    return [partial(open_engine, model, sampling, engine) for model in models]


def answers(engine: "Engine", tokenizer: Any, questions: list[Question], manner: Manner) -> list[str]:
    """Return the engine's answer to each question, many at a time.

    A question's random numbers are its own, so that the others do not choose its answer, but for rounding: sums of
    another batch may differ in their last bits, in bf16 enough to change a token now and then.
    """
    from ..sampling.request import Request
    from ..sampling.streams import uniforms

    count = manner.max_new_tokens
    requests = [
        Request(question.ids, uniforms(manner.seed, question.stream, count) if manner.temperature else None)
        for question in questions
    ]
    return [response.text(tokenizer) for response in engine.generate(requests)]


def compared(
    name: str, folder: Path, tokenizer: Any, params: Params, questions: list[Question], manner: Manner
) -> list[dict[str, Any]]:
    """Return a row per question: what is told of it, both models' answers, and the round. They are loaded in turn."""
    opens = reversed(openers(tokenizer, params, folder, manner))  # the policy first: where it is damaged, that is told
    trained, base = (answers(open_one(), tokenizer, questions, manner) for open_one in opens)
    return [row_of(name, *three) for three in zip(questions, base, trained, strict=True)]


def row_of(name: str, question: Question, base: str, trained: str) -> dict[str, Any]:
    """Return what is printed of a question and its answers."""
    return {**question.told, "base": base, "trained": trained, "round": name}


def converse(name: str, folder: Path, tokenizer: Any, params: Params, vocabulary: int, manner: Manner) -> None:
    """Ask for prompts and print both models' answers to each, until the input ends.

    It is one conversation, of which each model sees its own answers; CLEAR starts another. What cannot be answered, as
    a prompt that is too long, is no part of it.
    """
    opens = openers(tokenizer, params, folder, manner)
    trained_one, base_one = (open_one() for open_one in reversed(opens))  # vLLM, once it takes an adapter, serves both
    talks: list[Messages] = [[], []]
    while True:
        try:
            prompt = click.prompt(f"prompt (Ctrl-D ends, {CLEAR} forgets)", prompt_suffix="> ")
        except click.Abort:
            break
        if prompt.strip() == CLEAR:
            talks = [[], []]
            continue
        try:
            asked: list[Messages] = [[*talk, {"role": "user", "content": prompt}] for talk in talks]
            questions = of_talks(tokenizer, params, asked, vocabulary)
            base, trained = (
                answers(engine, tokenizer, [question], manner)[0]
                for engine, question in zip((base_one, trained_one), questions, strict=True)
            )
        except PipelineError as error:  # such as a prompt that is too long: the next one may be fine
            error.show()
            continue
        print_pairs([row_of(name, questions[0], base, trained)])
        talks = [
            [*talk, {"role": "assistant", "content": said}] for talk, said in zip(asked, (base, trained), strict=True)
        ]


def print_pairs(rows: list[dict[str, Any]]) -> None:
    """Print both answers to each prompt beside each other, the prompt above them, for people: in a conversation too."""
    from rich.console import Console
    from rich.table import Table

    for row in rows:
        table = Table("base", row["round"], title=literal(row["prompt"], "bold"), expand=True)
        table.add_row(*(literal(row[side].strip()) for side in ("base", "trained")))
        Console().print(table)


def print_rows(rows: list[dict[str, Any]], about: str) -> None:
    """Print a table with a line per prompt, and what is said about it."""
    columns = [column for column in rows[0] if column not in ("prompt_id", "round")]
    print_table(columns, [[cell(row[column]) for column in columns] for row in rows], lines=True)
    note(about)


def cell(value: Any) -> str:
    """Return a text without space around it; of another value, such as a list of expected answers, its JSON."""
    return "" if value is None else value.strip() if isinstance(value, str) else json_text(value)
