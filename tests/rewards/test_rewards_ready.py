"""Ready-made rewards: math, JSON schema, repetition."""

import sys
from typing import Any

import pytest
from test_rewards import samples

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.rewards.types.json_schema import JsonSchemaComponent
from ppo_pipeline.rewards.types.math import MathComponent
from ppo_pipeline.rewards.types.repetition import RepetitionComponent

CITY = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}


def math(**changes: Any) -> MathComponent:
    values = {
        "type": "math",
        "name": "m",
        "weight": 1.0,
        "column": "answer",
        "hit": 1.0,
        "miss": 0.0,
        "cpu_seconds": 20,
    }
    return MathComponent(**{**values, **changes})


def schema(form: dict[str, Any]) -> JsonSchemaComponent:
    values = {"type": "json_schema", "name": "j", "weight": 1.0, "hit": 1.0, "invalid": 0.25, "miss": -1.0}
    return JsonSchemaComponent(**values, schema=form)


def repetition(unit: str, ngram: int) -> RepetitionComponent:
    return RepetitionComponent(type="repetition", name="r", weight=1.0, unit=unit, ngram=ngram)


def needs_math_verify() -> None:
    pytest.importorskip("math_verify")


@pytest.mark.parametrize(
    ("answer", "right", "wrong"),
    [
        ("1/2", [r"So it is \boxed{\frac{2}{4}}.", "the answer is 0.5", r"\boxed{3}? No. So it is $\boxed{0.5}$."],
         [r"\boxed{0.5}? No. So it is $\boxed{3}$.", "1 2", "half", ""]),
        (r"$x^2+2x+1$", [r"$\boxed{(x+1)^2}$"], [r"$\boxed{(x+1)^3}$"]),
        (r"2\sqrt{3}", [r"\boxed{\sqrt{12}}"], ["2", "3", r"\boxed{2}"]),
        ("2x+1", ["$1 + 2x$"], ["2", "1"]),
        ("She has 5 apples left", ["5"], ["4"]),
        ([3, "4"], ["3", r"\boxed{4}"], ["5"]),
        ("6 * 12 = 72\n#### 72", ["1 + 1 = 2, so 72"], ["72, no, 73"]),
    ],
)  # fmt: skip
def test_a_response_is_right_where_its_last_expression_means_the_answer(
    answer: Any, right: list[str], wrong: list[str]
) -> None:
    needs_math_verify()
    given = samples([*right, *wrong], answer=[answer] * len(right + wrong))
    assert math().score(given) == [1.0] * len(right) + [0.0] * len(wrong)


def test_an_answer_without_an_expression_and_a_missing_column_are_named() -> None:
    needs_math_verify()
    with pytest.raises(
        PipelineError, match=r"reward 'm': prompt 's1': its `answer` is '\?', in which math-verify finds"
    ):
        math().check(samples(["", ""], answer=["1", "?"]))
    with pytest.raises(PipelineError, match=r"no column 'answer'\. Did you mean 'answers'\?"):
        math().check(samples([""], answers=["1"]))


def test_answers_that_are_equal_numbers_are_one_vote() -> None:
    needs_math_verify()
    half = {math().vote(text) for text in ("1/2", "so 0.5", r"\boxed{\frac{2}{4}}", "50%")}
    assert half == {"0.500000000000"}
    assert math().vote(r"$\boxed{x+1}$") == "x + 1"
    assert math().vote(" No idea! ") == "no idea"


def test_what_takes_too_long_is_a_miss_and_said(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    needs_math_verify()
    import math_verify

    verify = math_verify.verify

    def slow(gold: Any, target: Any, **options: Any) -> bool:
        while "7" in str(target):
            pass
        return bool(verify(gold, target, **options))

    monkeypatch.setattr(math_verify, "verify", slow)
    assert math(cpu_seconds=1).score(samples(["7", "1"], answer=["7", "1"])) == [0.0, 1.0]
    assert "reward 'm': 1 of 2 responses took more than cpu_seconds" in capsys.readouterr().out


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, component, extra in (("math_verify", math(), "math"), ("jsonschema", schema({}), "json")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(PipelineError, match=rf"reward '.': type: \w+ needs a library .*ppo-pipeline\[{extra}\]"):
            component.check(samples([""], answer=["1"]))


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        ('{"city": "Rome"}', 1.0),
        ('```json\n{"city": "Rome"}\n```', 1.0),
        ('  ```\n{"city": "Rome"}```\n', 1.0),
        ('{"city": 5}', 0.25),
        ("{}", 0.25),
        ("[]", 0.25),
        ('{"city": "Rome"', -1.0),
        ('It is {"city": "Rome"}', -1.0),
        ('{"city": "Rome", "heat": NaN}', -1.0),
        ("[" * 100_000, -1.0),
        ("", -1.0),
    ],
)
def test_json_is_read_whole_and_held_against_the_schema(response: str, reward: float) -> None:
    pytest.importorskip("jsonschema")
    assert schema(CITY).score(samples([response])) == [reward]


def test_what_is_no_schema_is_named_and_formats_count() -> None:
    pytest.importorskip("jsonschema")
    with pytest.raises(PipelineError, match=r"reward 'j': schema: \$\.type: 'objekt' is not valid"):
        schema({"type": "objekt"}).check(samples([""]))
    date = schema({"type": "string", "format": "date"})
    assert date.score(samples(['"2026-02-28"', '"2026-02-30"'])) == [1.0, 0.25]


def test_repetition_is_the_share_of_ngrams_that_came_before() -> None:
    """Worked by hand; the tokens are the example of TRL's own page."""
    words = samples(["a b a b A B", "one two three four", "go", ""])
    assert repetition("words", 2).score(words) == pytest.approx([-(1 - 2 / 5), 0.0, 0.0, 0.0])
    words.response_ids[:2] = [[1, 2, 3, 4], [5, 5, 5, 5, 5]]
    assert repetition("tokens", 2).score(words)[:2] == pytest.approx([0.0, -0.75])
    assert repetition("words", 1).score(samples(["the cat the dog the end"])) == pytest.approx([-(1 - 4 / 6)])
