"""A reward service that fails: each failure names reward, address, samples and what to do, and hides the token."""

from collections.abc import Callable
from typing import Any

import pytest
from reward_server import TOKEN, Answer, Server, component, lengths, samples
from warm_project import LONG, until

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.rewards import service_post


def failure(server: Server, advice: str, count: int = 5, **changes: Any) -> str:
    """Return the message of the failure, which names reward, url, samples and what to do, and hides the token."""
    with pytest.raises(PipelineError) as caught:
        component(server.url, **changes).score(samples(count))
    text = caught.value.message
    assert text.startswith(f"reward 'judge': {server.url}: ")
    assert "'s0'" in text
    assert advice in text
    assert TOKEN not in text.replace("\\", "")
    assert "\n" not in text
    return text


def test_always_500_fails_after_the_last_attempt(serve: Callable[..., Server]) -> None:
    server = serve(lambda *_: (500, f"broken, you sent Bearer {TOKEN}".encode(), {}))
    text = failure(server, "Look into the service's own log.")
    assert "status 500, in the last of 3 attempts (samples 's0' to 's1')" in text
    assert "Answered: 'broken, you sent Bearer ***'" in text
    assert len(server.requests) == 3
    escaped = serve(lambda *_: (400, TOKEN.replace("/", "\\/").encode(), {}))
    assert "Answered: '***'" in failure(escaped, "log")
    assert len(escaped.requests) == 1


def test_a_wrong_token_is_told(serve: Callable[..., Server]) -> None:
    server = serve(lambda *_: (401, b"", {}))
    assert "status 401 (samples" in failure(server, "Is the token in SCORER_TOKEN right?")
    failure(server, "Does it want a token? Set token_variable.", token_variable=None)
    assert len(server.requests) == 2


def test_a_server_that_hangs_is_given_up_after_the_timeout(serve: Callable[..., Server]) -> None:
    server = serve(lambda *_: server.closing.wait(LONG) and None)
    text = failure(server, "Raise timeout_seconds or lower batch_size.", timeout_seconds=0.1, retries=1)
    assert "no whole answer within 0.1 s, in the last of 2 attempts" in text
    until(lambda: len(server.requests) == 2)  # whoever hangs up is read nevertheless


def test_an_answer_that_drips_is_given_up_after_the_timeout(serve: Callable[..., Server]) -> None:
    def drip(sent: Any, number: int, handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        while not server.closing.wait(0.02):
            try:
                handler.wfile.write(b" ")
            except OSError:
                return

    server = serve(drip)
    assert "no whole answer within 0.2 s (samples" in failure(server, "Raise", timeout_seconds=0.2, retries=0)


@pytest.mark.parametrize("headers", [{"Content-Length": "1000"}, {"Transfer-Encoding": "chunked"}])
def test_an_answer_that_breaks_off_is_asked_for_again(serve: Callable[..., Server], headers: dict[str, str]) -> None:
    def broken(sent: Any, number: int, _: Any) -> Answer:
        if number > 1:
            return lengths(sent)
        return 200, b'{"rewards": [' if "Content-Length" in headers else b"20\r\n{", headers

    server = serve(broken)
    assert component(server.url, batch_size=5).score(samples()) == [0, 1, 2, 3, 4]
    server.requests.clear()
    assert "the connection failed" in failure(server, "Is the service running at this address?", retries=0)


def test_no_server_is_told(serve: Callable[..., Server]) -> None:
    server = serve(lengths)
    server.close()
    text = failure(server, "Is the service running at this address?")
    assert "the connection failed: " in text
    assert "refused" in text
    assert "in the last of 3 attempts" in text


@pytest.mark.parametrize("status", [200, 503])
def test_a_too_long_answer_is_not_read_to_its_end(serve: Callable[..., Server], status: int) -> None:
    written = 0

    def endless(sent: Any, number: int, handler: Any) -> None:
        nonlocal written
        handler.send_response(status)
        handler.end_headers()
        while not server.closing.is_set() and written < 1 << 28:
            try:
                written += handler.wfile.write(b"1" * 65536)
            except OSError:
                return

    server = serve(endless)
    assert "longer than max_answer_bytes, 1000" in failure(server, "Raise it if such an answer is right.")
    assert len(server.requests) == 1
    assert written < 1 << 28


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"rewards": [1]}', "1 rewards for 2 samples"),
        (b'{"rewards": [1, 2, 3]}', "3 rewards for 2 samples"),
        (b'{"rewards": [1, NaN]}', "the reward of sample 's1' is NaN, no finite number"),
        (b'{"rewards": [-Infinity, 1]}', "the reward of sample 's0' is -Infinity"),
        (b'{"rewards": [1, 1e999]}', "the reward of sample 's1' is Infinity"),
        (b'{"rewards": [1, 1' + b"0" * 400 + b"]}", "the reward of sample 's1' is 1000000"),
        (b'{"rewards": [1, null]}', "the reward of sample 's1' is null"),
        (b'{"rewards": ["1", 2]}', "the reward of sample 's0' is \"1\""),
        (b'{"rewards": [1, true]}', "the reward of sample 's1' is true"),
        (b'{"rewards": [1, [2]]}', "the reward of sample 's1' is [2]"),
        (b'{"rewards": 1}', "the answer has no list of rewards"),
        (b'{"scores": [1, 2]}', "the answer has no list of rewards"),
        (b"[1, 2]", "the answer has no list of rewards"),
        (b"<html>\n", "the answer is not JSON"),
        (b"[" * 900, "the answer is not JSON"),
        (b"\xff\xfe", "the answer is not JSON"),
        (b"", "the answer is not JSON"),
    ],
)
def test_an_answer_that_is_no_list_of_finite_numbers_is_shown(
    serve: Callable[..., Server], body: bytes, problem: str
) -> None:
    server = serve(lambda *_: (200, body, {}))
    text = failure(server, 'It must answer {"rewards": [...]}, a finite number for each sample; see docs/rewards.md.')
    assert problem in text
    assert len(server.requests) == 1


def test_a_redirect_is_not_followed_so_the_token_stays(serve: Callable[..., Server]) -> None:
    other = serve(lengths)
    server = serve(lambda *_: (307, b"", {"Location": f"{other.url}?token={TOKEN}"}))
    text = failure(
        server, "It is not followed, so that prompts and token go nowhere else; set url to the right address."
    )
    assert f"status 307, a redirect (samples 's0' to 's1'). Answered: '{other.url}?token=***'" in text
    assert other.requests == []
    assert len(server.requests) == 1


def test_the_waits_between_attempts_double(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(service_post, "WAIT_FACTOR", 0.5)
    monkeypatch.setattr("urllib3.util.retry.time.sleep", waits.append)
    server = serve(lambda *_: (429, b"", {"Retry-After": "1000"}))
    failure(server, "log", retries=8)
    assert waits == [1, 2, 4, 8, 16, 30, 30]
