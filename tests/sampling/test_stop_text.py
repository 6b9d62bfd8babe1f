"""A stop token is of the response's ids and not of its text, so that "Paris#" is "Paris" to a reward."""

from typing import Any

import pytest
from conftest import tiny_tokenizer
from stage_runs import Stages

from ppo_pipeline.sampling.response import Response

END, USER = 257, 258


def response(text: str, *more: int, finish: str = "stop") -> Response:
    return Response(tiny_tokenizer()(text, add_special_tokens=False)["input_ids"] + list(more), finish_reason=finish)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (response("Paris#"), "Paris"),
        (response("Paris", END), "Paris"),
        (response("Paris#", END), "Paris#"),  # the end token ended it, not the #
        (response("Par#is#"), "Par#is"),
        (response("Paris#", finish="length"), "Paris#"),
        (response("Paris", USER, finish="length"), "Paris"),
        (response("#"), ""),
        (response("", END), ""),
        (response("é#"), "é"),
    ],
)
def test_the_last_token_goes_where_it_ended_the_response(given: Response, text: str) -> None:
    before = list(given.ids)
    assert given.text(tiny_tokenizer()) == text
    assert given.ids == before


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    def change(params: Any) -> None:
        params["rollout"]["stop_tokens"] = [chr(code) for code in range(33, 127)]

    made = Stages(tmp_path_factory.mktemp("stop"), change)
    for stage, name in (("init", ""), ("baseline", ""), ("rollout", "r001"), ("reward", "r001")):
        made.run(stage, name)
    return made


@pytest.mark.parametrize("table", ["r000/eval.parquet", "r001/rollouts.parquet"])
def test_rollout_and_evaluation_write_the_text_before_it(project: Stages, table: str) -> None:
    tokenizer = tiny_tokenizer()
    columns = [project.column(table, name) for name in ("response_text", "response_ids", "finish_reason")]
    ended = 0
    for text, ids, finish in zip(*columns, strict=True):
        whole = tokenizer.decode(ids, skip_special_tokens=True)
        visible = finish == "stop" and ids[-1] != END
        assert text == (whole[:-1] if visible else whole)  # a byte is a token of this tokenizer
        ended += visible
    assert ended
