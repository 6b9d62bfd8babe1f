"""Rewards from a JSON service over HTTP."""

import json
import os
import time
from typing import Any

from ..errors import PipelineError, nearest
from ..reward_sections import HttpComponent
from .samples import Samples

RETRIED = (408, 429, 500, 502, 503, 504)
LONGEST_WAIT = 30.0  # seconds between two attempts
SHOWN = 200  # characters of an answer in an error


def http_rewards(settings: HttpComponent, samples: Samples) -> list[float]:
    """POST the samples in batches of `batch_size`; return the numbers that the service answers, in order.

    Sent: {"sample_ids": [...], "prompts": [...], "completions": [...], "columns": {name: [...]}}.
    Answered, with status 200: {"rewards": [number, ...]}, one for each sample sent.
    The token of `token_variable` goes with each request; a redirect is not followed, so that no other host gets it.
    Raises PipelineError, with the batch's samples named, for anything else that comes back, and where every
    attempt failed.
    """
    import requests
    from urllib3.exceptions import HTTPError

    missing = [name for name in settings.columns if name not in samples.columns]
    if missing:
        known = list(samples.columns)
        raise PipelineError(
            f"reward '{settings.name}': columns: the prompts have no column '{missing[0]}'."
            f"{nearest(missing[0], known)} They have: {', '.join(known) or 'none'}."
        )
    token = _token(settings)
    rewards: list[float] = []
    with _session(settings, token) as session:
        for start in range(0, len(samples), settings.batch_size):
            rows = slice(start, start + settings.batch_size)
            ids = samples.sample_ids[rows]
            try:
                rewards += _ask(session, settings, samples, rows)
            except (_BadAnswer, requests.RequestException, HTTPError) as error:
                reason = _reason(error, settings, token)
                raise PipelineError(
                    f"reward '{settings.name}': {settings.url}: {reason} (samples '{ids[0]}' to '{ids[-1]}')."
                ) from None
    return rewards


class _BadAnswer(Exception):
    """An answer that is no list of rewards.

    text: the beginning of what came, shown after the message.
    """

    def __init__(self, message: str, text: str = "") -> None:
        super().__init__(message)
        self.text = text


def _session(settings: HttpComponent, token: str | None) -> Any:
    """Return a requests session that retries and sends the token."""
    import requests
    from urllib3.util import Retry

    retry = Retry(
        total=settings.retries, status_forcelist=RETRIED, allowed_methods={"POST"}, backoff_factor=0.5,
        backoff_max=LONGEST_WAIT, raise_on_status=False, respect_retry_after_header=False,
    )  # fmt: skip
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry))
    # Not compressed, so that max_answer_bytes limits what is unpacked too.
    session.headers.update({"Accept": "application/json", "Accept-Encoding": "identity"})

    # A callable, so that requests takes no other password from a .netrc file.
    def authorise(request: Any) -> Any:
        if token is not None:
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    session.auth = authorise
    return session


def _token(settings: HttpComponent) -> str | None:
    if settings.token_variable is None:
        return None
    token = os.environ.get(settings.token_variable, "").strip()
    if not token:
        raise PipelineError(f"reward '{settings.name}': the environment variable {settings.token_variable} is not set.")
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise PipelineError(
            f"reward '{settings.name}': the environment variable {settings.token_variable} holds no token: "
            "it has spaces, line ends or characters beyond ASCII."
        )
    return token


def _ask(session: Any, settings: HttpComponent, samples: Samples, rows: slice) -> list[float]:
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
    seconds = settings.timeout_seconds
    with session.post(settings.url, json=sent, timeout=seconds, stream=True, allow_redirects=False) as response:
        body = _read(response, settings)
    text = body.decode("utf-8", "replace")
    if response.status_code != 200:
        if response.is_redirect:
            raise _BadAnswer(f"status {response.status_code}, a redirect to", response.headers["Location"])
        raise _BadAnswer(f"status {response.status_code}", text)
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        raise _BadAnswer("the answer is not JSON", text) from None
    found = answer.get("rewards") if isinstance(answer, dict) else None
    if not isinstance(found, list):
        raise _BadAnswer('the answer is not {"rewards": [...]}', text)
    if len(found) != len(completions):
        raise _BadAnswer(f"{len(found)} rewards for {len(completions)} samples")
    for sample_id, reward in zip(sent["sample_ids"], found, strict=True):
        if not isinstance(reward, (int, float)) or isinstance(reward, bool):
            raise _BadAnswer(f"the reward of sample '{sample_id}' is not a number", text)
    return found


def _read(response: Any, settings: HttpComponent) -> bytes:
    """Return the body; raise _BadAnswer beyond `max_answer_bytes`, or where it takes longer than the timeout."""
    from urllib3.exceptions import HTTPError

    body = b""
    started = time.monotonic()
    try:
        while part := response.raw.read1(65536, decode_content=False):
            body += part
            if len(body) > settings.max_answer_bytes:
                raise _BadAnswer(f"the answer is longer than max_answer_bytes, {settings.max_answer_bytes}")
            if time.monotonic() - started > settings.timeout_seconds:
                raise _BadAnswer(f"the answer is not complete after {settings.timeout_seconds:g} s")
    except HTTPError as error:
        raise _BadAnswer(f"the connection broke within the answer: {type(error).__name__}") from None
    return body


def _reason(error: Exception, settings: HttpComponent, token: str | None) -> str:
    """Say in a few words what failed; a service that repeats the token does not get it into the message."""
    import requests

    attempts = f"{settings.retries + 1} attempts" if settings.retries else "the only attempt"
    if isinstance(error, _BadAnswer):
        text = (error.text.replace(token, "***") if token else error.text)[:SHOWN]
        return f"{error}: {text!r}" if text else str(error)
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return f"no answer within {settings.timeout_seconds:g} s, in {attempts}"
    return f"{attempts} failed: {type(error).__name__}: {error}"
