"""The section `reward` of params.yaml: one class per type of reward component."""

import re
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, field_validator, model_validator

from .sections import Count, Name, NonNegative, Positive, Section

Finite = Annotated[float, Field(allow_inf_nan=False)]
SECRET = re.compile(r"(^|[_-])(key|apikey|token|secret|password|passwd|auth|sig|signature)$", re.IGNORECASE)


class Component(Section):
    """What every component has."""

    type: str
    name: Name = Field(description="Column in rewards.parquet")
    weight: Finite = Field(description="Factor in the score; 0 records the column only")


class RuleComponent(Component):
    """A reward computed from the response's text, mostly with the prompt's `expected` answer."""

    type: Literal["rule"]
    match: Literal["exact", "word", "number", "contains", "characters", "regex", "none"] = Field(
        description="exact: the response is the answer; word: the answer stands in it as whole words and numbers; "
        "number: the last number in it has the answer's value; contains: it stands anywhere in it; "
        "characters: the same, white space and punctuation left out of both everywhere; regex: `pattern` is "
        "found in it; none: only the length counts"
    )
    pattern: str | None = Field(
        description="With match: regex, a Python regular expression, searched in the response as it was written; "
        "(?i) at its start ignores case. null with any other match"
    )
    tolerance: NonNegative | None = Field(
        description="With match: number, how far from the answer the number may be; 0: equal. null with any other match"
    )
    hit: Finite = Field(description="Reward where it matches")
    miss: Finite = Field(description="Reward where it does not")
    length_penalty: NonNegative = Field(description="Subtracted for each character of the normalised response")
    max_length_penalty: NonNegative | None = Field(
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


class ModelComponent(Component):
    """A reward computed by a sequence classification model; the model's own Python code never runs."""

    type: Literal["model"]
    model: str = Field(description="Folder of a transformers model, or hub id owner/name", min_length=1)
    revision: str | None = Field(
        description="Commit or tag of a hub model; null for its default branch, which may change. null for a folder"
    )
    pickled_weights: bool = Field(
        description="Where a model has no safetensors file, read pytorch_model.bin with torch's weights-only "
        "unpickler, which makes tensors and no other objects (torch >= 2.10: CVE-2026-24747). false: an error"
    )
    input: Literal["pair", "concat", "chat"] = Field(
        description="pair: the messages as plain text, and the response, as two segments; concat: the response after "
        "the prompt as the policy saw it; chat: by the reward model's own chat template"
    )
    label: str | int | None = Field(
        description="Label whose logit is the reward, by name or index; null where the model has a single one"
    )
    output: Literal["logit", "probability"] = Field(
        description="logit: the model's number; probability: its sigmoid, or the label's share of the softmax"
    )
    max_tokens: Count = Field(description="Longest input, special tokens included")
    too_long: Literal["error", "cut_start", "cut_end"] = Field(
        description="A longer input: an error; cut at the start (pair: of the prompt), or at the end (pair: of the "
        "response). How many were cut is printed"
    )
    batch_tokens: Count = Field(description="Tokens of a batch of similar lengths, padding included")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(description="auto takes cuda, then mps, then cpu")
    dtype: Literal["auto", "bf16", "fp32"] = Field(
        description="Number format of the model; auto takes bf16 where the machine computes it fast"
    )


class HttpComponent(Component):
    """A reward asked of a JSON service: see docs/rewards.md for what is sent and what it answers."""

    type: Literal["http"]
    url: str = Field(description="http:// or https:// address, asked with POST; no password or key in it")
    format: Literal["text", "messages"] = Field(
        description="text: prompts and completions are texts; messages: lists of {role, content}"
    )
    columns: list[str] = Field(description="Further prompt columns that are sent along, such as expected")
    batch_size: Count = Field(description="Samples in one request")
    timeout_seconds: Positive = Field(
        description="Time for one attempt, from connecting to the answer's last byte", allow_inf_nan=False
    )
    retries: int = Field(
        description="Further attempts after a failed or broken connection, a timeout or status 408, 429, 500, 502, "
        "503, 504; the first at once, then after 1 s, 2 s, 4 s and so on to 30 s",
        ge=0,
    )
    max_answer_bytes: Count = Field(description="A longer answer is an error")
    token_variable: str | None = Field(
        description="Name of the environment variable that holds a bearer token, never the token itself; null: none",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
    )

    @field_validator("url")
    @classmethod
    def _url_is_plain(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("not an http:// or https:// address")
        names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
        if "@" in parts.netloc or any(SECRET.search(name) for name in names):
            raise ValueError("a password does not belong in params.yaml; use token_variable")
        return url


TAKEN_COLUMNS = ("sample_id", "score", "prompt_id", "prompt_text", "response_text", "response_ids", "finish_reason")
COMPONENTS: dict[str, type[Component]] = {
    "rule": RuleComponent,
    "python": PythonComponent,
    "model": ModelComponent,
    "http": HttpComponent,
}
AnyComponent = Annotated[RuleComponent | PythonComponent | ModelComponent | HttpComponent, Field(discriminator="type")]


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
