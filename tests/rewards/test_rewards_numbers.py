"""Numbers in responses: words of their own for exact and word, values for match: number."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_rewards import rule, samples

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.rewards.normal_form import normalise
from ppo_pipeline.rewards.numbers import last_value
from ppo_pipeline.rewards.types.rule import matches


def found(response: str, expected: str, how: str = "word") -> bool:
    return matches(normalise(response), normalise(expected), how)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("-5", "5"), ("\u22125", "5"), ("it is \u20135", "5"), ("答案是-5", "5"), ("负5", "5"), ("-$5", "5"),
        ("$-5", "5"),
        ("0.5", "5"), (".5", "5"), ("1.5", "1"), ("0.5", ".5"), ("-.5", ".5"), ("3.14.15", "14"), ("１．５", "5"),
        ("15,000", "15"), ("15,000", "000"), ("15'000", "15"), ("15_000", "15"), ("3,5", "5"),
        ("1/2", "1"), ("½", "2"), ("1½", "1"), ("5e3", "5"), ("1e-5", "5"), ("2^5", "5"), ("5²", "5"), ("10₂", "10"),
        ("3-5", "-5"), ("5 apples cost 2.5 apples", "5 apples cost 2"), ("1.5 kg", "5 kg"),
        ("3万", "3"), ("十五", "五"), ("五十", "五"), ("三点五", "五"), ("十二月", "二月"), ("负五", "五"),
    ],
)  # fmt: skip
def test_a_number_is_not_found_in_another(response: str, expected: str) -> None:
    assert not found(response, expected)
    assert not found(response, expected, "exact")
    assert found(response, response)
    assert found(f"so it is {response}.", response)


@pytest.mark.parametrize(
    "response",
    [
        "15", "15.", "15, I think", "(15)", "15%", "$15", "**15**", "x=15", "5+10=15", "No. 15", "no.15", "...15",
        "15...",
        "+15", "3-15", "15-20", "3\u201315", "COVID-15", "第15页", "答案是15。", "有15个", "14, 15, 16", "14，15，16",
        "'15'",
        "15/", "15:", "- 15", "--15", "1. 15", "15 000", "of 15's", "15!", "minus 15", "-15 - 15",
    ],
)  # fmt: skip
def test_a_number_is_found_beside_what_does_not_belong_to_it(response: str) -> None:
    assert found(response, "15")


@pytest.mark.parametrize(
    ("response", "expected", "same"),
    [
        (".5", "5", False), ("“.5”", ".5", True), ("(.5).", ".5", True), (".5", ".5", True), ("...5", "5", True),
        (". 5", "5", True), ("5.", "5", True), ("0.5", ".5", False), ("5²", "52", False), ("1½", "11\u20442", False),
        ("\u22125", "-5", True), ("1，2", "1,2", False), ("１５", "15", True), ("-5", "5", False), ("5.0", "5", False),
    ],
)  # fmt: skip
def test_exact_keeps_what_belongs_to_a_number(response: str, expected: str, same: bool) -> None:
    assert found(response, expected, "exact") is same


@given(st.integers(-(10**6), 10**6), st.sampled_from(["{}", "it is {}.", "({})", "{}, no less", "是{}。", "= {}!"]))
def test_any_integer_is_found_in_a_sentence_and_no_other_one(number: int, sentence: str) -> None:
    response = sentence.format(number)
    assert found(response, str(number))
    wrong = {-number, number // 10, number * 10, number % 10, number + 1} - {number}
    assert not any(found(response, str(other)) for other in wrong)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("15", 15), ("The answer is 15.", 15), ("5 + 10 = 15", 15), ("15kg", 15), ("\\boxed{42}", 42), ("15%", 15),
        ("1,234.5", Fraction(2469, 2)), ("12,345,678", 12345678), ("1'234", 1234), ("1_000", 1000),
        ("15\u202f000", 15000),
        (".5", Fraction(1, 2)), ("-.5", Fraction(-1, 2)), ("\u22127", -7), ("$-5", -5), ("-$5", -5), ("负5", -5),
        ("1e3", 1000), ("1.5E-3", Fraction(3, 2000)), ("1/2", Fraction(1, 2)), ("1 1/2", Fraction(3, 2)),
        ("1½", Fraction(3, 2)), ("007", 7), ("-0", 0), ("from 3-5", 5), ("0.1", Fraction(1, 10)),
        ("", None), ("none", None), ("五", None), ("1,5", None), ("1,23,456", None), ("1.2.3", None), ("2^5", None),
        ("3万", None), ("1/0", None), ("12, then 1.2.3", None), ("1e999999999", None), ("9" * 5000, None),
    ],
)  # fmt: skip
def test_the_value_of_the_last_number(text: str, value: Fraction | None) -> None:
    assert last_value(text) == value


@given(st.integers(-(10**12), 10**12), st.integers(0, 6))
def test_grouped_and_plain_writings_have_one_value(number: int, digits: int) -> None:
    """Python's own formatting against the value read back."""
    value = Decimal(number).scaleb(-digits)
    assert last_value(f"{value:,f}") == last_value(f"{value:f}") == Fraction(value)


def test_match_number_compares_values_within_the_tolerance() -> None:
    def rewards(tolerance: float, expected: object, *responses: str) -> list[float]:
        settings = rule(match="number", tolerance=tolerance, length_penalty=0.0)
        return settings.score(samples(list(responses), expected=[expected] * len(responses)))

    assert rewards(0.0, "15,000", "15000.0", "It is 15,000.", "15", "none", "15000 or 3") == [
        1.0,
        1.0,
        -1.0,
        -1.0,
        -1.0,
    ]
    assert rewards(0.0, 0.1, "0.1", ".10", "0.1000001") == [1.0, 1.0, -1.0]
    assert rewards(0.1, "0.3", "0.4", "0.2", "0.41", "-0.3") == [1.0, 1.0, -1.0, -1.0]  # as decimals, exactly
    assert rewards(0.0, [5, "1/2"], "5", "0.5", "2") == [1.0, 1.0, -1.0]
    assert rewards(0.0, "$5", "5 dollars") == rewards(0.0, "5%", "5 %") == rewards(0.0, 1e20, "1" + "0" * 20) == [1.0]


@pytest.mark.parametrize("expected", ["five", "5 or 6", "#### 72", "1,5", "1.2.3", "5kg"])
def test_an_answer_that_is_not_one_number_is_named(expected: str) -> None:
    settings = rule(match="number", tolerance=0.0)
    with pytest.raises(PipelineError, match=r"sample 's1': its prompt's `expected` is '.*', not one number in digits"):
        settings.score(samples(["5", "5"], expected=["5", expected]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"match": "number"}, "match: number needs a tolerance"),
        ({"match": "word", "tolerance": 0.0}, "every other match needs tolerance: null"),
        ({"match": "number", "tolerance": -0.1}, "greater than or equal to 0"),
        ({"match": "number", "tolerance": 0.0, "case_column": "c"}, "match: number needs case_column: null"),
    ],
)
def test_settings_of_match_number_that_make_no_sense_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rule(**changes)
