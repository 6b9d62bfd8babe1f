"""Rewards from a JSON service over HTTP."""

import html
import json
import re
from typing import Any
from urllib.parse import unquote

import numpy as np

from ..errors import PipelineError
from ..observe.progress import progress
from ..resume.kept_batches import KeptBatches
from ..resume.snapshots import Snapshots
from ..settings.reward_sections import HttpComponent
from .samples import NUMBER, MissingColumn, Samples, is_reward
from .service_post import ServiceError, open_session, post, read_token

SHOWN = 200  # characters of an answer in an error
JSON_CODE = re.compile(r"\\u([0-9a-fA-F]{4})")
PASSWORD = re.compile(r"//[^/\s@]+@")
CONTRACT = 'It must answer {"rewards": [...]}, a finite number for each sample; see docs/rewards.md.'


def http_rewards(settings: HttpComponent, samples: Samples, snapshots: Snapshots | None = None) -> list[float]:
    """POST the samples in batches of `batch_size`; return the numbers that the service answers, in order.

    Sent: {"sample_ids": [...], "prompts": [...], "completions": [...], "columns": {name: [...]}}.
    Answered, with status 200: {"rewards": [number, ...]}, one for each sample sent.
    snapshots: where answers are kept, so that a stage which was killed or failed does not ask for them again.
    The token of `token_variable` goes with each request; a redirect is not followed, so that no other host gets it.
    Raises PipelineError, with the batch's samples named, for anything else that comes back, and where every
    attempt failed.
    """
    check_service(settings, samples)
    token = read_token(settings)
    rewards = np.zeros(len(samples))
    starts = range(0, len(samples), settings.batch_size)
    kept = KeptBatches(snapshots, {"rewards": rewards}, [slice(i, i + settings.batch_size) for i in starts])
    with open_session(token) as session, kept, progress(len(samples), f"reward {settings.name}") as counter:
        for rows in kept.remaining():
            ids = samples.sample_ids[rows]
            try:
                rewards[rows] = _rewards(post(session, settings, _body(settings, samples, rows)), ids, token)
            except ServiceError as error:
                raise PipelineError(_message(error, settings, ids, token)) from None
            counter.advance(len(ids))
    return [float(reward) for reward in rewards]


def check_service(settings: HttpComponent, samples: Samples) -> None:
    """Raise PipelineError where a column that is to be sent, or the token, is not there."""
    read_token(settings)
    for name in settings.columns:
        if name not in samples.columns:
            raise MissingColumn(f"reward '{settings.name}': columns", name, list(samples.columns))


def _body(settings: HttpComponent, samples: Samples, rows: slice) -> bytes:
    """Return what is sent for the samples of `rows`."""
    prompts: list[Any] = samples.prompt_texts[rows]
    completions: list[Any] = samples.responses[rows]
    if settings.format == "messages":
        prompts = samples.messages[rows]
        completions = [[{"role": "assistant", "content": text}] for text in completions]
    sent = {
        "sample_ids": samples.sample_ids[rows],
        "prompts": prompts,
        "completions": completions,
        "columns": {name: samples.columns[name][rows] for name in settings.columns},
    }
    try:
        return json.dumps(sent, allow_nan=False).encode("ascii")
    except (TypeError, ValueError) as error:  # a date, bytes, NaN
        raise ServiceError(
            f"a value of the columns {', '.join(settings.columns)} does not fit into JSON: {error}",
            "Leave the column out, or write it as text or finite numbers in the prompt file.",
        ) from None


def _rewards(text: str, ids: list[str], token: str | None) -> list[float]:
    """Return the rewards that the answer `text` gives to the samples; no error shows `token`."""
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        raise ServiceError("the answer is not JSON", CONTRACT, text) from None
    found = answer.get("rewards") if isinstance(answer, dict) else None
    if not isinstance(found, list):
        raise ServiceError("the answer has no list of rewards", CONTRACT, text)
    if len(found) != len(ids):
        raise ServiceError(f"{len(found)} rewards for {len(ids)} samples", CONTRACT, text)
    for sample_id, reward in zip(ids, found, strict=True):
        if not is_reward(reward):
            shown = f"{_without(json.dumps(reward), token):.60}"
            raise ServiceError(f"the reward of sample '{sample_id}' is {shown}, no {NUMBER}", CONTRACT, text)
    return found


def _message(error: ServiceError, settings: HttpComponent, ids: list[str], token: str | None) -> str:
    """Return one line for the user; a service that repeats the token does not get it in there."""
    problem, answer = _without(error.problem, token), _without(error.answer, token)
    which = f"sample '{ids[0]}'" if len(ids) == 1 else f"samples '{ids[0]}' to '{ids[-1]}'"
    shown = f" Answered: {answer[:SHOWN]!r}." if answer else ""
    return f"reward '{settings.name}': {settings.url}: {problem} ({which}).{shown} {error.advice}"


def _without(text: str, token: str | None) -> str:
    """Return `text` without the token and without passwords in addresses (a proxy's, a redirect's).

    The token is found too where it comes back escaped, as JSON, HTML or an address writes it.
    """
    bare, plain = _unescaped(token or ""), _unescaped(text)
    return PASSWORD.sub("//***@", plain.replace(bare, "***") if bare and bare in plain else text)


def _unescaped(text: str) -> str:
    code = JSON_CODE.sub(lambda match: chr(int(match.group(1), 16)), text)
    return unquote(html.unescape(code.replace("\\", "")))
