"""A real HTTP server on loopback that answers as a test tells it to, and samples to send to it."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ppo_pipeline.rewards.samples import Samples
from ppo_pipeline.rewards.types.http import HttpComponent

TOKEN = "s3cret/token-0123456789"
Answer = tuple[int, bytes, dict[str, str]]


def good(rewards: Any) -> Answer:
    """Return status 200 with the rewards as JSON."""
    return 200, json.dumps({"rewards": rewards}).encode(), {}


class Server:
    """Answers POST requests with `answer(what was sent, number of the request)`; keeps what it was sent.

    answer: returns an Answer; or writes to the handler itself and returns None.
    """

    def __init__(self, answer: Callable[..., Answer | None]) -> None:
        self.requests: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(sent)
                outer.headers.append(dict(self.headers))
                found = answer(sent, len(outer.requests), self)
                if found is not None:
                    outer.send(self, *found)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/score"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @staticmethod
    def send(handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Write a whole answer; `headers` may replace Content-Length."""
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    def close(self) -> None:
        """Stop the server; answers that wait for `closing` go on."""
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def samples(count: int = 5, **columns: list) -> Samples:
    return Samples(
        sample_ids=[f"s{i}" for i in range(count)],
        messages=[[{"role": "user", "content": f"Why {i}?"}] for i in range(count)],
        prompt_texts=[f"<|user|>Why {i}?" for i in range(count)],
        responses=["x" * i for i in range(count)],
        response_ids=[[0]] * count,
        columns={"expected": [f"because {i}" for i in range(count)], "split": ["train"] * count, **columns},
    )


def component(url: str, **changes: Any) -> HttpComponent:
    values = {
        "type": "http", "name": "judge", "weight": 1.0, "url": url, "format": "text", "columns": [], "batch_size": 2,
        "timeout_seconds": 300.0, "retries": 2, "max_answer_bytes": 1000, "token_variable": "SCORER_TOKEN",
    }  # fmt: skip
    return HttpComponent(**{**values, **changes})


def lengths(sent: Any, *_: Any) -> Answer:
    return good([len(text) for text in sent["completions"]])
