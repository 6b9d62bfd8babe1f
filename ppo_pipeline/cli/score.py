"""`ppo-pipeline score`: the reward of responses that a person wrote."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click

from ..errors import PipelineError, nearest
from ..settings.params import ROOT, SEALED, Params, load_params
from ..settings.reward_sections import Reward
from .handwritten import Handwritten, from_command_line, from_file, parse_columns
from .literal import token_text
from .printed import json_text, note, print_table


@click.command()
@click.argument("responses", nargs=-1, metavar="[RESPONSE]...")
@click.option("--prompt", help="Prompt that the responses answer, a user's message.")
@click.option(
    "--file", "path", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Rows with `prompt` or `messages`, `response` or a list `responses`, and further columns.",
)  # fmt: skip
@click.option("--column", "columns", multiple=True, metavar="NAME=VALUE", help="Column of the prompts, as expected=4.")
@click.option("--round", "name", metavar="ROUND", help="With the settings of this round of params.yaml.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines: prompt, response, score, components.")
def score(
    responses: tuple[str, ...], prompt: str | None, path: Path | None, columns: tuple[str, ...], name: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Score each RESPONSE to --prompt, or those of --file, by `reward` in params.yaml, without any training.

    Works before the base model is here. Only rewards that read the prompt as the policy saw it, or token ids, need its
    tokenizer (`dvc repro base`). The token ids are those that the tokenizer makes of the text, and its end token.

    A response that begins with a dash stands after `--`. A VALUE is JSON where it can be read as such, else text:
    expected=4 is a number, 'expected="4"' a text, 'expected=["4", "four"]' a list. What a row of --file has itself
    counts before --column.
    """
    from .hand_scores import scored

    if (prompt is None) == (path is None):
        raise click.UsageError("give either --prompt and at least one response, or --file.")
    if path is not None and responses:
        raise click.UsageError(f"'{token_text(responses[0])}': with --file the responses stand in the file.")
    if path is None and not responses:
        raise click.UsageError("no response to the prompt is given; write at least one behind it.")
    more = parse_columns(columns)
    params = load_params(Path("params.yaml"))
    reward = reward_of(params, name)
    given = from_file(path, more, params.prompts) if path else None
    given = given or from_command_line(str(prompt), responses, more, params.prompts)
    with redirect_stdout(sys.stderr):  # what rewards and users' functions print is no part of the result
        scores = scored(params, reward, given)
    if as_json:
        print_json(given, scores)
    else:
        print_scores(given, scores, path is not None)
        note(f"score = {formula(reward)}")


def reward_of(params: Params, name: str | None) -> Reward:
    """Return the section `reward`, with the overrides of round `name`."""
    if name is None:
        return params.reward
    if name in params.all_rounds and name not in params.rounds:
        raise PipelineError(
            f"{SEALED}: {name} is sealed, and may have run with other settings than those of today; leave out --round, "
            f"or `ppo-pipeline rounds unseal {name}` first."
        )
    known = [ROOT, *params.rounds]
    if name not in known:
        raise PipelineError(f"params.yaml: no round '{name}'.{nearest(name, known)}")
    return params.of_round(name).reward


def print_json(given: Handwritten, scores: dict[str, list[float]]) -> None:
    """Print a JSON object per response; the prompt is a text where it is one user message."""
    for i, response in enumerate(given.responses):
        messages = given.written[given.rows[i]]
        alone = len(messages) == 1 and messages[0]["role"] == "user"
        line: dict[str, Any] = {"prompt": messages[0]["content"] if alone else messages, "response": response}
        components = {name: values[i] for name, values in scores.items() if name != "score"}
        click.echo(json_text({**line, "score": scores["score"][i], "components": components}))


def print_scores(given: Handwritten, scores: dict[str, list[float]], with_prompts: bool) -> None:
    """Print a row per response."""
    texts = ["prompt", "response"] if with_prompts else ["response"]
    numbers = [f"reward.{name}" if name in ("prompt", "response") else name for name in scores]
    rows = []
    for i, response in enumerate(given.responses):
        prompt = [" / ".join(m["content"] for m in given.written[given.rows[i]])] if with_prompts else []
        rows.append([*prompt, response, *(f"{values[i]:+.3f}" for values in scores.values())])
    print_table([*texts, *numbers], rows, right=numbers, lines=True)


def formula(reward: Reward) -> str:
    """Return the weighted sum in words: 1 x answer - 0.5 x long."""
    parts = (f"{'-' if c.weight < 0 else '+'} {abs(c.weight):g} x {c.name}" for c in reward.components)
    return " ".join(parts).removeprefix("+ ")
