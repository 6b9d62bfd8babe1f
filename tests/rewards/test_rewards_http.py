"""Rewards of a JSON service: what is sent and taken, the token, and which settings are refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError
from reward_server import TOKEN, Server, component, good, lengths, samples
from ruamel.yaml import YAML

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.rewards.scoring import score_samples
from ppo_pipeline.settings.params import load_params
from ppo_pipeline.settings.reward_sections import Reward

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"


def test_samples_are_sent_in_batches_and_the_rewards_keep_their_order(serve: Callable[..., Server]) -> None:
    server = serve(lengths)
    rewards = component(server.url, columns=["expected"]).score(samples())
    assert rewards == [0, 1, 2, 3, 4]
    assert [request["sample_ids"] for request in server.requests] == [["s0", "s1"], ["s2", "s3"], ["s4"]]
    assert server.requests[1] == {
        "sample_ids": ["s2", "s3"],
        "prompts": ["<|user|>Why 2?", "<|user|>Why 3?"],
        "completions": ["xx", "xxx"],
        "columns": {"expected": ["because 2", "because 3"]},
    }
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {TOKEN}"}
    assert {headers["Content-Type"] for headers in server.headers} == {"application/json"}
    assert component(server.url).score(samples(0)) == []


def test_messages_are_sent_as_conversations_and_no_token_where_none_is_set(serve: Callable[..., Server]) -> None:
    server = serve(lambda sent, *_: good([0.5] * len(sent["completions"])))
    settings = component(server.url, format="messages", token_variable=None, weight=2.0)
    assert score_samples(Reward(correct=None, components=[settings]), samples(1)) == {"score": [1.0], "judge": [0.5]}
    assert server.requests[0]["prompts"] == [[{"role": "user", "content": "Why 0?"}]]
    assert server.requests[0]["completions"] == [[{"role": "assistant", "content": ""}]]
    assert server.requests[0]["columns"] == {}
    assert "Authorization" not in server.headers[0]


def test_no_password_is_taken_from_a_netrc_file(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password something\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server = serve(lengths)
    component(server.url, token_variable=None).score(samples(1))
    assert "Authorization" not in server.headers[0]


def test_a_server_that_fails_twice_is_asked_again(serve: Callable[..., Server]) -> None:
    server = serve(lambda sent, number, _: (503, b"busy", {}) if number <= 2 else lengths(sent))
    assert component(server.url).score(samples()) == [0, 1, 2, 3, 4]
    assert [request["sample_ids"][0] for request in server.requests] == ["s0", "s0", "s0", "s2", "s4"]


@pytest.mark.parametrize(("value", "message"), [(None, "is not set"), (" ", "is not set"), ("a b", "holds no token")])
def test_a_missing_or_broken_token_is_told_before_anything_is_sent(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, value: str | None, message: str
) -> None:
    server = serve(lengths)
    monkeypatch.delenv("SCORER_TOKEN")
    if value is not None:
        monkeypatch.setenv("SCORER_TOKEN", value)
    with pytest.raises(PipelineError, match=f"{server.url}: the environment variable SCORER_TOKEN {message}.*set it"):
        component(server.url).score(samples())
    assert server.requests == []


def test_a_column_that_is_not_there_or_is_no_json_is_told(serve: Callable[..., Server]) -> None:
    server = serve(lengths)
    with pytest.raises(
        PipelineError, match=r"no column 'expectd'\. Did you mean 'expected'\? They have: expected \(text\), spl"
    ):
        component(server.url, columns=["expectd"]).score(samples())
    for value in (b"bytes", float("nan")):
        with pytest.raises(
            PipelineError, match=r"the columns odd does not fit into JSON: .*sample 's0'.*Leave the col"
        ):
            component(server.url, columns=["odd"]).score(samples(1, odd=[value]))
    assert server.requests == []


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/", "127.0.0.1:80", "http://", "http://me:password@127.0.0.1/", "https://token@host/"]
)
def test_an_address_with_a_password_or_of_another_kind_is_refused_in_the_settings(url: str) -> None:
    with pytest.raises(ValidationError, match=r"not an http:// or https:// address|use token_variable"):
        component(url)


def test_a_password_or_token_put_into_the_settings_is_not_shown(tmp_path: Path) -> None:
    data = YAML(typ="safe").load(PARAMS)
    mistakes = {"url": "http://me:pass-word@127.0.0.1/", "token_variable": "tok-en"}
    data["reward"]["components"] = [{**component("http://127.0.0.1/").model_dump(), **mistakes}]
    YAML().dump(data, tmp_path / "params.yaml")
    with pytest.raises(PipelineError) as caught:
        load_params(tmp_path / "params.yaml")
    assert "use token_variable" in caught.value.message
    assert "reward.components.0.token_variable" in caught.value.message
    assert "pass-word" not in caught.value.message
    assert "tok-en" not in caught.value.message
