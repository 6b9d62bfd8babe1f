"""A reward service that answers anything: its rewards are finite numbers, or PipelineError says what is wrong."""

import json
import math
from typing import Any

from fuzzing import EDITS, JSON, changes_of, damaged, declared, examples
from hypothesis import given
from hypothesis import strategies as st
from reward_server import component, samples

GOOD = {"rewards": [1.0, -2]}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 22\r\n\r\n"
ANSWER = HEAD + json.dumps(GOOD).encode()
STATUS = st.sampled_from(
    [b"HTTP/1.1 302 Found\r\nLocation: ", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]
)


def ask(serve: Any, raw: bytes) -> None:
    """Let a real server write these bytes as its whole answer, and close the connection."""

    def answer(sent: Any, number: int, handler: Any) -> None:
        handler.close_connection = True
        handler.wfile.write(raw)

    server = serve(answer)
    settings = component(server.url, batch_size=2, retries=0, token_variable=None)
    try:
        found = declared(lambda: settings.score(samples(2)), "reward 'judge'")
    finally:
        server.close()
    assert found is None or (len(found) == 2 and all(math.isfinite(reward) for reward in found))


def with_length(body: bytes) -> bytes:
    return HEAD.replace(b"22", str(len(body)).encode()) + body


@examples(40)
@given(EDITS)
def test_damaged_answers(serve: Any, edits: Any) -> None:
    ask(serve, damaged(ANSWER, edits))


@examples(40)
@given(JSON | changes_of(GOOD))
def test_any_json(serve: Any, value: Any) -> None:
    ask(serve, with_length(json.dumps(value).encode()))


@examples(30)
@given(st.binary(max_size=40), STATUS, st.booleans())
def test_any_bytes(serve: Any, content: bytes, head: bytes, whole: bool) -> None:
    ask(serve, with_length(content) if whole else head + content)
