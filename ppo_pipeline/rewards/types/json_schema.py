"""Rewards for a response that is JSON of a given form."""

import json
import re
from typing import Any, Literal

from pydantic import Field

from ...errors import PipelineError
from ...errors.extras import import_extra
from ...resume.snapshots import Snapshots
from ..component import Component, Finite
from ..samples import Samples

FENCED = re.compile(r"\s*```(?:json)?[ \t]*\n(.*?)\n?[ \t]*```\s*", re.DOTALL | re.IGNORECASE)
NOT_JSON = (ValueError, RecursionError)


class JsonSchemaComponent(Component):
    """A reward for a response that is JSON, alone or in one code block, and that a JSON Schema allows."""

    type: Literal["json_schema"]
    form: dict[str, Any] = Field(
        alias="schema",
        description="A JSON Schema, written as YAML: {type: object, required: [city]}; {} allows any JSON",
    )
    hit: Finite = Field(description="Reward where the schema allows it")
    invalid: Finite = Field(description="Reward for JSON that the schema does not allow")
    miss: Finite = Field(description="Reward for what is no JSON")

    def score(self, samples: Samples, snapshots: Snapshots | None = None) -> list[float]:
        """Return `hit`, `invalid` or `miss` of each response.

        What a schema's `$schema` names decides how it is read, draft 2020-12 without one; `format` is checked, as far
        as the library knows it, and nothing is fetched that a `$ref` names elsewhere.
        """
        validator = self._validator()
        return [self._reward(validator, text) for text in samples.responses]

    def check(self, prompts: Samples) -> None:
        """Raise PipelineError where the schema is none, or the library is missing."""
        self._validator()

    def reads_policy_view(self) -> bool:
        """Tell that this reads texts alone."""
        return False

    def _reward(self, validator: Any, text: str) -> float:
        found = FENCED.fullmatch(text)
        try:
            value = json.loads(found[1] if found else text, parse_constant=_refuse)
        except NOT_JSON:
            return self.miss
        return self.hit if validator.is_valid(value) else self.invalid

    def _validator(self) -> Any:
        jsonschema = import_extra("jsonschema", "json", f"reward '{self.name}': type: json_schema")
        cls = jsonschema.validators.validator_for(self.form, default=jsonschema.Draft202012Validator)
        try:
            cls.check_schema(self.form)
            return cls(self.form, format_checker=cls.FORMAT_CHECKER)
        except jsonschema.SchemaError as error:
            raise PipelineError(
                f"reward '{self.name}': schema: {error.json_path}: {error.message:.200}; write a JSON Schema."
            ) from None


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
