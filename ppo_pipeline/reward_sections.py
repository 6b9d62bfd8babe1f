"""The section `reward` of params.yaml: one class per type of reward component."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from .sections import Name, NonNegative, Section

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Component(Section):
    """What every component has."""

    type: str
    name: Name = Field(description="Column in rewards.parquet")
    weight: Finite = Field(description="Factor in the score; 0 records the column only")


class RuleComponent(Component):
    """A reward computed from the response's text, mostly with the prompt's `expected` answer."""

    type: Literal["rule"]
    match: Literal["exact", "word", "contains", "regex", "none"] = Field(
        description="exact: the response is the answer; word: the answer stands in it as whole words; "
        "contains: it stands anywhere in it; regex: `pattern` is found in it; none: only the length counts"
    )
    pattern: str | None = Field(
        description="With match: regex, a Python regular expression, searched in the response as it was written; "
        "(?i) at its start ignores case. null with any other match"
    )
    hit: Finite = Field(description="Reward where it matches")
    miss: Finite = Field(description="Reward where it does not")
    length_penalty: NonNegative = Field(description="Subtracted for each character of the normalised response")
    max_length_penalty: NonNegative | None = Field(
        description="The length penalty grows to this at most; null: no limit"
    )
    case_column: str | None = Field(
        description="Boolean prompt column; where it is true, letter case counts. null: case never counts"
    )

    @model_validator(mode="after")
    def _pattern_belongs_to_regex(self) -> "RuleComponent":
        if (self.match == "regex") != (self.pattern is not None):
            raise ValueError("match: regex needs a pattern, and every other match needs pattern: null")
        if self.pattern is not None and self.case_column is not None:
            raise ValueError("match: regex needs case_column: null; (?i) in the pattern ignores case")
        return self

    @field_validator("pattern")
    @classmethod
    def _pattern_compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern


class PythonComponent(Component):
    """A reward computed by a Python function with TRL's signature."""

    type: Literal["python"]
    function: str = Field(
        description="module:function, called as function(prompts=..., completions=..., completion_ids=..., **columns) "
        "-> list of float; in the folder reward_functions/ an edit reruns the reward",
        pattern=r"^[\w.]+:\w+$",
    )
    format: Literal["text", "messages"] = Field(
        description="text: prompts and completions are texts; messages: lists of {role, content}"
    )
    none_as: Finite | None = Field(
        description="Reward where the function returns None, TRL's `does not apply`; 0 is what TRL counts. "
        "null: None is an error"
    )


TAKEN_COLUMNS = ("sample_id", "score", "prompt_id", "prompt_text", "response_text", "response_ids", "finish_reason")
COMPONENTS: dict[str, type[Component]] = {
    "rule": RuleComponent,
    "python": PythonComponent,
}
AnyComponent = Annotated[RuleComponent | PythonComponent, Field(discriminator="type")]


class Reward(Section):
    """Scores of responses: the weighted sum of the components."""

    components: list[AnyComponent] = Field(min_length=1, description="Reward components, each a column")

    @field_validator("components")
    @classmethod
    def _names_are_free(cls, components: list[Any]) -> list[Any]:
        """Refuse names that would stand twice among the columns of rewards.parquet or eval.parquet."""
        names = [component.name for component in components]
        for name in names:
            if name in TAKEN_COLUMNS or names.count(name) > 1:
                raise ValueError(f"the name '{name}' is taken; give each component a column name of its own")
        return components
