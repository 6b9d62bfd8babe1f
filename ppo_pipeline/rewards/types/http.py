"""Rewards from a JSON service over HTTP."""

import html
import json
import re
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import numpy as np
from pydantic import Field, field_validator

from ...errors import PipelineError
from ...observe.progress import progress
from ...resume.kept_batches import KeptBatches
from ...resume.snapshots import Snapshots
from ...settings.sections import Count, Positive
from ..component import Component
from ..samples import NUMBER, MissingColumn, Samples, is_reward
from ..service_post import ServiceError, open_session, post, read_token

SHOWN = 200  # characters of an answer in an error
JSON_CODE = re.compile(r"\\u([0-9a-fA-F]{4})")
PASSWORD = re.compile(r"//[^/\s@]+@")
SECRET = re.compile(r"(^|[_-])(key|apikey|token|secret|password|passwd|auth|sig|signature)$", re.IGNORECASE)
CONTRACT = 'It must answer {"rewards": [...]}, a finite number for each sample; see docs/rewards.md.'


class HttpComponent(Component):
    """A reward asked of a JSON service: see docs/rewards.md for what is sent and what it answers."""

    type: Literal["http"]
    url: str = Field(repr=False, description="http:// or https:// address, asked with POST; no password or key in it")
    format: Literal["text", "messages"] = Field(
        description="text: prompts and completions are texts; messages: lists of {role, content}"
    )
    columns: list[str] = Field(description="Further prompt columns that are sent along, such as the answer's")
    batch_size: Count = Field(description="Samples in one request")
    timeout_seconds: Positive = Field(
        description="Time for one attempt, from connecting to the answer's last byte", allow_inf_nan=False
    )
    retries: int = Field(
        description="Further attempts after a failed or broken connection, a timeout or status 408, 429, 500, 502, "
        "503, 504; the first at once, then after 1 s, 2 s, 4 s and so on to 30 s",
        ge=0,
    )
    max_answer_bytes: Count = Field(description="A longer answer is an error")
    token_variable: str | None = Field(
        repr=False,
        description="Name of the environment variable that holds a bearer token, never the token itself; null: none",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
    )

    @field_validator("url")
    @classmethod
    def _url_is_plain(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("not an http:// or https:// address")
        names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
        if "@" in parts.netloc or any(SECRET.search(name) for name in names):
            raise ValueError("a password does not belong in params.yaml; use token_variable")
        return url

    def score(self, samples: Samples, snapshots: Snapshots | None = None) -> list[float]:
        """POST the samples in batches of `batch_size`; return the numbers that the service answers, in order.

        Sent: {"sample_ids": [...], "prompts": [...], "completions": [...], "columns": {name: [...]}}.
        Answered, with status 200: {"rewards": [number, ...]}, one for each sample sent.
        snapshots: where answers are kept, so that a stage which was killed or failed does not ask for them again.
        The token of `token_variable` goes with each request; a redirect is not followed, so that no other host gets it.
        Raises PipelineError, with the batch's samples named, for anything else that comes back, and where every
        attempt failed.
        """
        self.check(samples)
        token = read_token(self)
        rewards = np.zeros(len(samples))
        starts = range(0, len(samples), self.batch_size)
        kept = KeptBatches(snapshots, {"rewards": rewards}, [slice(i, i + self.batch_size) for i in starts])
        with open_session(token) as session, kept, progress(len(samples), f"reward {self.name}", "samples") as counter:
            for rows in kept.remaining():
                ids = samples.sample_ids[rows]
                try:
                    rewards[rows] = _rewards(post(session, self, _body(self, samples, rows)), ids, token)
                except ServiceError as error:
                    raise PipelineError(_message(error, self, ids, token)) from None
                counter.advance(len(ids))
        return [float(reward) for reward in rewards]

    def check(self, prompts: Samples) -> None:
        """Raise PipelineError where a column that is to be sent, or the token, is not there."""
        read_token(self)
        for name in self.columns:
            if name not in prompts.columns:
                raise MissingColumn(f"reward '{self.name}': columns", name, prompts.columns)

    def reads_policy_view(self) -> bool:
        """Tell whether the service is sent the prompt as the policy saw it."""
        return self.format == "text"


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
