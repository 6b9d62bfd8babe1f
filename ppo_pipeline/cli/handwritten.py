"""Prompts and responses that a person wrote for `ppo-pipeline score`: on the command line, or in a file."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import click
import pyarrow as pa

from ..errors import PipelineError, nearest
from ..prompts.conversations import Messages, conversation_of, with_system
from ..prompts.files import KINDS, NAMED, NOT_JSON, rows_of
from ..prompts.sources import OWN, encoded, given_split, prompts_table
from ..settings.sections import Prompts
from .literal import token_text

TAKEN = ("prompt_id", "prompt", "messages", "response", "responses")


class Handwritten(NamedTuple):
    """What is to be scored.

    prompts: as the stage `prompts` makes them, with their further columns; prompt_id says where one was written.
    written: each prompt's messages without the system prompt of params.yaml.
    rows, sample_ids, responses: of each response its prompt's place in `prompts`, its name for errors, and its text.
    """

    prompts: pa.Table
    written: list[Messages]
    rows: list[int]
    sample_ids: list[str]
    responses: list[str]


Place = tuple[str, dict[str, Any], dict[str, str]]  # where it was written, its columns, responses by sample id


def from_command_line(prompt: str, responses: tuple[str, ...], columns: dict[str, Any], s: Prompts) -> Handwritten:
    """Return one prompt with its responses, named `response 1` and so on."""
    numbered = {f"response {number}": text for number, text in enumerate(responses, 1)}
    return _gathered([("--prompt", {"prompt": prompt}, numbered)], columns, s, "--column")


def from_file(path: Path, columns: dict[str, Any], s: Prompts) -> Handwritten:
    """Return the rows of a prompt file with `response` or `responses`; columns: for rows without a value of their own.

    Raises PipelineError naming file and row for what is no prompt or no response.
    """
    if not path.name.lower().endswith(KINDS):
        raise PipelineError(f"--file: '{path}' is not a {NAMED} file.")
    places = [(f"{path}, row {number}", row) for number, row in rows_of(path)]
    return _gathered([(place, row, _responses(row, place)) for place, row in places], columns, s, str(path))


def parse_columns(given: tuple[str, ...]) -> dict[str, Any]:
    """Return the columns of NAME=VALUE arguments: a value that is JSON as what it means, any other as text."""
    columns: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--column '{token_text(text)}': write it as NAME=VALUE.")
        if name in TAKEN:
            raise click.UsageError(f"--column '{name}': that is the prompt or the response itself, no further column.")
        if name in columns:
            raise click.UsageError(f"--column '{token_text(name)}' stands there twice; write a list as NAME=[1, 2].")
        columns[name] = _value(value)
    return columns


def _value(text: str) -> Any:
    def refused(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")

    try:
        return json.loads(text, parse_constant=refused)
    except NOT_JSON:
        return text


def _responses(row: dict[str, Any], place: str) -> dict[str, str]:
    """Return a row's responses by their sample ids."""
    one, several = row.get("response"), row.get("responses")
    if one is None and several is None:
        hint = next((hint for name in row if (hint := nearest(name, ["response", "responses"]))), "")
        raise PipelineError(f"{place}: neither `response` nor `responses`.{hint}")
    if one is not None and several is not None:
        raise PipelineError(f"{place}: both `response` and `responses`; keep one.")
    if one is not None:
        if not isinstance(one, str):
            raise PipelineError(f"{place}: `response` must be a text, found {type(one).__name__}.")
        return {place: one}
    if not isinstance(several, list) or not several or not all(isinstance(text, str) for text in several):
        raise PipelineError(f"{place}: `responses` must be a list of texts, found {several!r:.60}.")
    return {f"{place}, response {number}": text for number, text in enumerate(several, 1)}


def _gathered(places: list[Place], columns: dict[str, Any], s: Prompts, source: str) -> Handwritten:
    """Return prompts and responses in their order; source: whose columns they are, for errors."""
    rows, all_written, numbers = [], [], []
    samples: dict[str, str] = {}
    for number, (place, own, responses) in enumerate(places):
        row = own | {name: value for name, value in columns.items() if own.get(name) is None}
        written = conversation_of(row, s.continue_final_message, place)
        for text in [message["content"] for message in written] + [*responses.values()]:
            encoded(text, place)
        split = given_split(row, place) or "train"  # functions get it, as in the pipeline
        more = {name: value for name, value in row.items() if name not in (*OWN, *TAKEN)}
        rows.append({"prompt_id": place, "messages": with_system(written, s.system), "split": split, **more})
        all_written.append(written)
        numbers += [number] * len(responses)
        samples |= responses
    return Handwritten(prompts_table(rows, source), all_written, numbers, [*samples], [*samples.values()])
