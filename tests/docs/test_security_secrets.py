"""A reward service's token: in no file and no output, whatever the service does with it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError
from reward_server import Answer, Server, component, samples
from stage_runs import REPOSITORY

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.project.paths import Paths
from ppo_pipeline.settings.reward_sections import Reward
from ppo_pipeline.tables.prompts import PROMPTS
from ppo_pipeline.tables.rollouts import ROLLOUTS

TOKEN = "s3cret+token/&=" + "0123456789abcdef" * 6
PARTS = [TOKEN[i : i + 12] for i in range(0, len(TOKEN) - 12)]  # a part of it is no one's business either


def parts_in(text: str) -> list[str]:
    return [part for part in PARTS if part in text.replace("\\", "")]


@pytest.mark.parametrize(
    "answer",
    [
        (200, json.dumps({"rewards": ["x" * 40 + TOKEN]}).encode(), {}),
        (200, json.dumps({"rewards": [{"Bearer": TOKEN}]}).encode(), {}),
        (200, f"<html>{TOKEN.replace('&', '&amp;')}".encode(), {}),
        (403, TOKEN.replace("+", "\\u002B").replace("/", "\\/").encode(), {}),
        (500, TOKEN.replace("+", "\\u002b").replace("&", "\\u0026").encode(), {}),
        (307, b"", {"Location": "http://127.0.0.1/?t=" + TOKEN.replace("+", "%2B").replace("/", "%2f")}),
        (307, b"", {"Location": "http://me:pass-word@127.0.0.1/"}),
        (200, ("x" * 190 + TOKEN).encode(), {}),
    ],
)
def test_a_service_that_repeats_the_token_does_not_bring_it_into_the_message(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    monkeypatch.setenv("SCORER_TOKEN", TOKEN)
    server = serve(lambda *_: answer)
    with pytest.raises(PipelineError) as caught:
        component(server.url, retries=0).score(samples(1))
    assert server.headers[0]["Authorization"] == f"Bearer {TOKEN}"
    assert parts_in(caught.value.message) == []
    assert "pass-word" not in caught.value.message
    assert "***" in caught.value.message


def test_a_proxy_s_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://me:pass-word@127.0.0.1:port/")  # no number: nothing is asked
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    with pytest.raises(PipelineError) as caught:
        component("http://judge.invalid/", token_variable=None, retries=0).score(samples(1))
    assert "pass-word" not in caught.value.message


@pytest.mark.parametrize("query", ["token=x", "a=1&api_key=x", "X-Amz-Signature=x", "apikey", "key=x"])
def test_a_key_in_an_address_is_refused_and_not_shown(query: str) -> None:
    with pytest.raises(ValidationError, match="a password does not belong"):
        component(f"http://127.0.0.1/score?{query}")
    component("http://127.0.0.1/score?model=key&tokens=5")


def write_stage(folder: Path, url: str) -> list[str]:
    """Write what the stage `reward` reads; return its command."""
    settings = component(url, retries=0, batch_size=8)
    paths = Paths("r001", root=folder)
    paths.settings("reward").parent.mkdir(parents=True)
    reward = Reward(correct=None, components=[settings]).model_dump()
    paths.settings("reward").write_text(json.dumps({"round": "r001", "threads": 0, "reward": reward}))
    messages = pa.array([[{"role": "user", "content": "Why?"}]])
    PROMPTS.write(pa.table({"prompt_id": ["p"], "messages": messages, "split": ["train"]}), paths.prompts)
    rows = {
        "sample_id": ["a"], "prompt_id": ["p"], "sample_index": [0], "prompt_text": ["Why?"], "response_text": ["y"],
        "prompt_ids": [[1]], "response_ids": [[65]], "rollout_logprobs": [[-1.0]], "kept_mass": [[1.0]],
        "finish_reason": ["stop"],
    }  # fmt: skip
    ROLLOUTS.write(pa.table(rows), paths.rollouts)
    return [sys.executable, "-m", "stages", "reward", "r001"]


@pytest.mark.parametrize("fails", [False, True])
def test_the_token_is_in_no_file_and_no_output_of_the_stage(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setenv("SCORER_TOKEN", TOKEN)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))

    def answer(sent: Any, *_: Any) -> Answer:
        return (500, f"Bearer {TOKEN}".encode(), {}) if fails else (200, b'{"rewards": [0.5]}', {})

    server = serve(answer)
    command = write_stage(tmp_path, server.url)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == int(fails), done.stderr
    assert server.headers[0]["Authorization"] == f"Bearer {TOKEN}"
    assert parts_in(done.stdout + done.stderr) == []
    assert "SCORER_TOKEN" not in done.stdout
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert Paths("r001", root=tmp_path).rewards.is_file() is not fails
    assert (tmp_path / "logs/r001/reward.json").is_file() is not fails
    for path in files:
        assert parts_in(path.read_text("latin-1")) == [], path
