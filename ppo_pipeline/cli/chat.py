"""`ppo-pipeline chat`: a trained policy beside the base model."""

import math
from pathlib import Path
from typing import Any

import click

from ..errors import PipelineError
from ..settings.params import Params, load_params
from .literal import literal
from .policies import BASE, load_base, policy_folder


def finite(ctx: click.Context, parameter: click.Parameter, value: float) -> float:
    """Return the option's value; refuse nan and inf, which pass a range check of floats."""
    if not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number.", ctx, parameter)
    return value


@click.command()
@click.option("--round", "name", required=True, help="Round whose policy answers, such as r004.")
@click.option("--prompt", "prompts", multiple=True, help="Prompt to answer; without one, they are asked for.")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=0.0,
    callback=finite,
    help="0 (the default) answers greedily.",
)
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=128, show_default=True)
@click.option("--seed", type=int, default=0, help="Seed of the sampled answers.")
def chat(name: str, prompts: tuple[str, ...], temperature: float, max_new_tokens: int, seed: int) -> None:
    """Answer prompts with a round's policy and with the base model, side by side."""
    from rich.console import Console
    from rich.table import Table

    from ..models.checkpoint import load_merged

    params = load_params(Path("params.yaml"))
    folder = policy_folder(params, name)
    base, tokenizer = load_base(params)
    trained = load_merged(BASE, folder, base.device, base.dtype)
    console = Console()

    def answer(prompt: str) -> None:
        texts = [reply(m, tokenizer, params, prompt, temperature, max_new_tokens, seed) for m in (base, trained)]
        table = Table("base", name, title=literal(prompt, "bold"), expand=True)
        table.add_row(*(literal(text) for text in texts))
        console.print(table)

    for prompt in prompts:
        answer(prompt)
    while not prompts:
        try:
            prompt = click.prompt("prompt (Ctrl-D ends)", prompt_suffix="> ")
        except click.Abort:
            break
        try:
            answer(prompt)
        except PipelineError as error:  # such as a prompt that is too long: the next one may be fine
            error.show()


def reply(
    model: Any, tokenizer: Any, params: Params, prompt: str, temperature: float, max_new_tokens: int, seed: int
) -> str:
    """Return the model's answer to one user message."""
    from ..models.loading import rows_of, stop_ids_of
    from ..prompts.conversations import with_system
    from ..prompts.rendering import render
    from ..sampling.decoder import Decoder, Request
    from ..sampling.streams import uniforms

    messages = with_system([{"role": "user", "content": prompt}], params.prompts.system)
    how: dict[str, Any] = {"date": params.date, "special_tokens": params.special_tokens, "vocabulary": rows_of(model)}
    _, ids = render(tokenizer, messages, params.chat_template, **how)
    if not ids:
        raise PipelineError("the prompt has no token; write something.")
    numbers = uniforms(seed, prompt, max_new_tokens) if temperature else None
    decoder = Decoder(model, stop_ids_of(model, tokenizer, params.stop_tokens), max_new_tokens, temperature or 1.0, 1)
    return decoder.decode([Request(ids, numbers)])[0].text(tokenizer).strip()
