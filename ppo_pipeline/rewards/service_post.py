"""POST JSON to a reward service: token, limits of time and size, further attempts."""

import os
import time
from typing import TYPE_CHECKING, Any

from ..errors import PipelineError

if TYPE_CHECKING:
    from .types.http import HttpComponent

RETRIED = (408, 429, 500, 502, 503, 504)
LONGEST_WAIT = 30.0  # seconds between two attempts
WAIT_FACTOR = 0.5  # urllib3 waits factor * 2 ** (attempts - 1): none after the first, 1 s after the second, 2 s, 4 s


class ServiceError(Exception):
    """What a service did wrong: the words for it, the beginning of what it answered, and what to do.

    passing: the next attempt may go well.
    """

    def __init__(self, problem: str, advice: str, answer: str = "", passing: bool = False) -> None:
        super().__init__(problem)
        self.problem, self.advice, self.answer, self.passing = problem, advice, answer, passing


def read_token(settings: "HttpComponent") -> str | None:
    """Return the token that the environment variable holds; raise PipelineError where it holds none."""
    variable = settings.token_variable
    if variable is None:
        return None
    where = f"reward '{settings.name}': {settings.url}: the environment variable {variable}"
    token = os.environ.get(variable, "").strip()
    if not token:
        raise PipelineError(f"{where} is not set; set it to the token, or set token_variable: null.")
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise PipelineError(f"{where} holds no token, but spaces, line ends or characters beyond ASCII; set it anew.")
    return token


def open_session(token: str | None) -> Any:
    """Return a requests session that sends the token and asks for JSON that is not compressed."""
    import requests

    session = requests.Session()
    # Not compressed, so that max_answer_bytes limits what is unpacked too.
    session.headers.update(
        {"Accept": "application/json", "Accept-Encoding": "identity", "Content-Type": "application/json"}
    )

    # A callable, so that requests takes no other password from a .netrc file.
    def authorise(request: Any) -> Any:
        if token is not None:
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    session.auth = authorise
    return session


def post(session: Any, settings: "HttpComponent", body: bytes) -> str:
    """Return the text that the service answers with status 200, asking again after a failure that may pass.

    urllib3's Retry counts the attempts and waits between them. It is not mounted in the session: there it would
    read the answers that it throws away without a limit, and would not see an answer that breaks off.
    Raises ServiceError where an attempt failed for good, or the last one failed.
    """
    from urllib3.exceptions import MaxRetryError
    from urllib3.util import Retry

    waits = Retry(total=settings.retries, backoff_factor=WAIT_FACTOR, backoff_max=LONGEST_WAIT)
    while True:
        try:
            return _attempt(session, settings, body)
        except ServiceError as error:
            if not error.passing:
                raise
            try:
                waits = waits.increment("POST", settings.url)
            except MaxRetryError:
                if settings.retries:
                    error.problem += f", in the last of {settings.retries + 1} attempts"
                raise error from None
            waits.sleep()


def _attempt(session: Any, settings: "HttpComponent", body: bytes) -> str:
    import requests
    from urllib3.exceptions import HTTPError, ProtocolError
    from urllib3.exceptions import TimeoutError as BodyTimeout
    from urllib3.util import Timeout

    seconds = settings.timeout_seconds
    late = ServiceError(
        f"no whole answer within {seconds:g} s", "Raise timeout_seconds or lower batch_size.", passing=True
    )
    down = "Is the service running at this address?"
    started = time.monotonic()
    try:
        with session.post(
            settings.url, data=body, timeout=Timeout(total=seconds), stream=True, allow_redirects=False
        ) as response:
            text = _read(response, settings, started, late)
    except (requests.Timeout, BodyTimeout):
        raise late from None
    except requests.exceptions.SSLError as error:
        raise ServiceError(f"no secure connection: {error}", "Mend the service's certificate.") from None
    except (requests.ConnectionError, ProtocolError) as error:
        cause = getattr(error.args[0], "reason", error) if error.args else error  # not "Max retries exceeded"
        raise ServiceError(f"the connection failed: {cause}", down, passing=True) from None
    except UnicodeError as error:  # requests reads the address of a redirect, which is not followed, all the same
        raise ServiceError(f"a redirect to no address: {error}", "Look into the service's own log.") from None
    except (requests.RequestException, HTTPError) as error:
        raise ServiceError(f"{type(error).__name__}: {error}", "Mend the url.") from None
    _check_status(response, settings, text)
    return text


def _read(response: Any, settings: "HttpComponent", started: float, late: ServiceError) -> str:
    """Return the answer's text; raise ServiceError beyond `max_answer_bytes` or where the time is over."""
    body = b""
    while part := response.raw.read1(65536, decode_content=False):
        body += part
        if len(body) > settings.max_answer_bytes:
            raise ServiceError(
                f"the answer is longer than max_answer_bytes, {settings.max_answer_bytes}",
                "Raise it if such an answer is right.",
                body.decode("utf-8", "replace"),
            )
        if time.monotonic() - started > settings.timeout_seconds:
            raise late
    return body.decode("utf-8", "replace")


def _check_status(response: Any, settings: "HttpComponent", text: str) -> None:
    status = response.status_code
    if status == 200:
        return
    if response.is_redirect:
        raise ServiceError(
            f"status {status}, a redirect",
            "It is not followed, so that prompts and token go nowhere else; set url to the right address.",
            response.headers["Location"],
        )
    advice = "Look into the service's own log."
    if status in (401, 403):
        variable = settings.token_variable
        advice = f"Is the token in {variable} right?" if variable else "Does it want a token? Set token_variable."
    raise ServiceError(f"status {status}", advice, text, passing=status in RETRIED)
