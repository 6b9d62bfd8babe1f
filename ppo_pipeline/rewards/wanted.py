"""What a rule compares a response with: the prompt's answers and its case column, read and checked."""

from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import PipelineError
from ..prompts.column_values import Answer, answers, text_of, truth
from .normal_form import bare, normalise
from .numbers import whole_value
from .samples import MissingColumn, Samples

if TYPE_CHECKING:
    from .types.rule import RuleComponent


class Wanted(NamedTuple):
    """Of one sample: normalised texts or, with match: number, values, any of which is a hit; whether case counts."""

    texts: list[str]
    values: list[Fraction]
    keep_case: bool


def read_wanted(settings: "RuleComponent", samples: Samples, whose: str = "sample") -> list[Wanted]:
    """Return what each sample's prompt wants; without answers where the rule compares nothing.

    whose: what an entry of `samples` is, for errors. Raises PipelineError where the prompts lack a column, and, with
    the sample and the column named, for a value that is no answer or no truth value.
    """
    count = len(samples)
    answer = settings.answer_column()
    expected = [None] * count if answer is None else _column(samples, answer, settings.name)
    case = [None] * count if settings.case_column is None else _column(samples, settings.case_column, settings.name)
    found = []
    for i, sample_id in enumerate(samples.sample_ids):
        column = settings.case_column
        try:
            keep_case = truth(case[i])
            column = settings.column
            given = [] if answer is None else answers(expected[i])
            numeric = settings.match == "number"
            form = bare if settings.match == "characters" else normalise
            texts = [] if numeric else [_text(form(text_of(answer), keep_case)) for answer in given]
            found.append(Wanted(texts, [_value(answer) for answer in given] if numeric else [], keep_case))
        except ValueError as error:
            its = "its prompt's" if whose == "sample" else "its"
            raise PipelineError(f"reward '{settings.name}': {whose} '{sample_id}': {its} `{column}` {error}.") from None
    return found


def _text(text: str) -> str:
    if not text:
        raise ValueError("is empty but for punctuation, which is not compared")
    return text


def _value(answer: Answer) -> Fraction:
    value = whole_value(answer) if isinstance(answer, str) else Fraction(str(answer))
    if value is None:
        raise ValueError(f"is {answer!r:.60}, not one number in digits, which match: number compares with")
    return value


def _column(samples: Samples, name: str, component: str) -> list[Any]:
    if name not in samples.columns:
        raise MissingColumn(f"reward '{component}'", name, samples.columns)
    return samples.columns[name]
