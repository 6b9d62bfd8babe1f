"""Rule rewards: is the expected answer there, and how long is the response?"""

import re
from difflib import SequenceMatcher
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ...resume.snapshots import Snapshots
from ...settings.as_before import AsBefore
from ...settings.sections import NonNegative
from ..component import Component, Finite
from ..normal_form import BOUNDED, bare, normalise
from ..numbers import last_value, spans
from ..samples import Samples

if TYPE_CHECKING:
    from ..wanted import Wanted


class RuleComponent(Component):
    """A reward computed from the response's text, mostly with the prompt's answer in `column`."""

    type: Literal["rule"]
    match: Literal["exact", "word", "number", "contains", "characters", "similarity", "regex", "none"] = Field(
        description="exact: the response is the answer; word: the answer stands in it as whole words and numbers; "
        "number: the last number in it has the answer's value; contains: it stands anywhere in it; "
        "characters: the same, white space and punctuation left out of both everywhere; similarity: from miss to hit "
        "by the share of characters that it has in common with the answer; regex: `pattern` is found in it; none: only "
        "the length counts"
    )
    column: Annotated[str, AsBefore("expected")] = Field(
        description="Prompt column of the answers: a text, a number or a list of these, any of which counts. Not read "
        "with match: regex or none",
        min_length=1,
    )
    pattern: Annotated[str | None, AsBefore(None)] = Field(
        description="With match: regex, a Python regular expression, searched in the response as it was written; "
        "(?i) at its start ignores case. null with any other match"
    )
    tolerance: Annotated[NonNegative | None, AsBefore(None)] = Field(
        description="With match: number, how far from the answer the number may be; 0: equal. null with any other match"
    )
    hit: Finite = Field(description="Reward where it matches")
    miss: Finite = Field(description="Reward where it does not")
    length_penalty: NonNegative = Field(description="Subtracted for each character of the normalised response")
    max_length_penalty: Annotated[NonNegative | None, AsBefore(None)] = Field(
        description="The length penalty grows to this at most; null: no limit"
    )
    case_column: str | None = Field(
        description="Prompt column of true and false (also 1 and 0, yes and no; empty is false); where it is true, "
        "letter case counts. null: case never counts"
    )

    @model_validator(mode="after")
    def _pattern_belongs_to_regex(self) -> "RuleComponent":
        if (self.match == "regex") != (self.pattern is not None):
            raise ValueError("match: regex needs a pattern, and every other match needs pattern: null")
        if self.pattern is not None and self.case_column is not None:
            raise ValueError("match: regex needs case_column: null; (?i) in the pattern ignores case")
        return self

    @model_validator(mode="after")
    def _tolerance_belongs_to_number(self) -> "RuleComponent":
        if (self.match == "number") != (self.tolerance is not None):
            raise ValueError(
                "match: number needs a tolerance, such as 0.0, and every other match needs tolerance: null"
            )
        if self.match == "number" and self.case_column is not None:
            raise ValueError("match: number needs case_column: null; numbers have no case")
        return self

    @field_validator("pattern")
    @classmethod
    def _pattern_compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern

    def score(self, samples: Samples, snapshots: Snapshots | None = None) -> list[float]:
        """Return, per sample, `hit` or `miss`, less `length_penalty` for each character of the normalised response.

        exact, word, contains and characters (of which both sides are `bare`) look for the prompt's answer in the
        normalised response, any of a list; similarity takes the `ratio` to the nearest; number compares the
        response's last number with it; regex searches `pattern` in the response as it was written.

        At most `max_length_penalty` is subtracted, so that rambling does not drown the rest of a batch. The LoRA
        notebook's reward is match: characters, hit: 1, miss: -1, length_penalty: 0.002, no limit. Raises
        PipelineError where the prompts lack the answers' column, or the case column, or hold a value there that is
        none (wanted.py).
        """
        from ..wanted import read_wanted

        rewards = []
        for text, wanted in zip(samples.responses, read_wanted(self, samples), strict=True):
            response = (bare if self.match == "characters" else normalise)(text, wanted.keep_case)
            reward = 0.0
            if self.match == "similarity":
                share = max((ratio(response, each) for each in wanted.texts), default=0.0)
                reward = self.miss + share * (self.hit - self.miss)
            elif self.match != "none":
                reward = self.hit if _is_hit(self, text, response, wanted) else self.miss
            penalty = self.length_penalty * len(response)
            if self.max_length_penalty is not None:
                penalty = min(penalty, self.max_length_penalty)
            rewards.append(reward - penalty)
        return rewards

    def check(self, prompts: Samples) -> None:
        """Raise PipelineError as `score` does, with the prompt named."""
        from ..wanted import read_wanted

        read_wanted(self, prompts, "prompt")

    def vote(self, response: str) -> str:
        """Return the value of the last number with match: number, where there is one; else the normalised response.

        Letter case counts where there is a case column.
        """
        value = last_value(response) if self.match == "number" else None
        return normalise(response, self.case_column is not None) if value is None else str(value)

    def answer_column(self) -> str | None:
        """Return `column`, unless nothing is compared with it."""
        return None if self.match in ("none", "regex") else self.column

    def reads_policy_view(self) -> bool:
        """Tell that this reads texts alone."""
        return False


def matches(response: str, expected: str, how: str) -> bool:
    """Tell whether the normalised `expected` is (exact), or stands in (word, contains, characters), `response`.

    word: not next to a further letter or digit, so that 1 is not found in 12; letters of scripts without
    spaces between words do not count as such. A number is found whole or not at all: 5 is not in -5, 0.5 or 5,000,
    and 五 is not in 十五.
    """
    if how == "exact":
        return response == expected
    if how in ("contains", "characters") or expected not in response:
        return expected in response
    numbers = spans(response)
    # Within a lookahead, so that places may overlap.
    for found in re.finditer(rf"(?<!{BOUNDED})(?={re.escape(expected)}(?!{BOUNDED}))", response):
        start, end = found.start(), found.start() + len(expected)
        if all(start <= first and last <= end for first, last in numbers if first < end and start < last):
            return True
    return False


def ratio(response: str, expected: str) -> float:
    """Return 2 M / T, M the characters in matching blocks, T all characters of both: 1 where they are equal.

    Ratcliff and Obershelp's measure, as difflib has it, without its heuristic for frequent characters.
    """
    return SequenceMatcher(None, response, expected, autojunk=False).ratio()


def _is_hit(rule: RuleComponent, text: str, response: str, wanted: "Wanted") -> bool:
    """Tell whether a response matches; `response` is `text` normalised."""
    if rule.pattern is not None:
        return re.search(rule.pattern, text) is not None
    if rule.match == "number":
        value, tolerance = last_value(text), Fraction(str(rule.tolerance))
        return value is not None and any(abs(value - each) <= tolerance for each in wanted.values)
    return any(matches(response, each, rule.match) for each in wanted.texts)
