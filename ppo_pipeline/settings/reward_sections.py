"""The section `reward` of params.yaml: a list of components, each checked by the class of its type.

A type is a file of rewards/types/. That room is above this one and is not imported here: its files are found by name,
when settings are first checked, and their classes register themselves.
"""

import pkgutil
from functools import cache
from importlib import import_module
from typing import Annotated, Any, Union, get_args

from pydantic import AfterValidator, BaseModel, Field, TypeAdapter, field_validator, model_validator

from .as_before import AsBefore
from .sections import Section

TYPES = "ppo_pipeline.rewards.types"
TAKEN_COLUMNS = (
    "sample_id",
    "score",
    "correct",
    "prompt_id",
    "prompt_text",
    "response_text",
    "response_ids",
    "finish_reason",
    "sample_index",
    "vote",
)
TAKEN_METRICS = (  # eval/... of all components together
    "scores",
    "scores_se",
    "correct_se",
    "sampled_scores",
    "sampled_scores_se",
    "sampled_correct",
    "sampled_correct_se",
    "majority",
    "response_length",
    "finished",
)
_registered: dict[str, type[BaseModel]] = {}


def register(cls: type[BaseModel]) -> None:
    """Take the class of a type of component, named by its field `type: Literal["..."]`."""
    names = get_args(cls.model_fields["type"].annotation)
    if len(names) != 1:
        raise TypeError(f'{cls.__module__}.{cls.__name__} needs a field `type: Literal["..."]`')
    other = _registered.setdefault(names[0], cls)
    if other.__module__ != cls.__module__:
        raise TypeError(f"{cls.__module__} and {other.__module__} both have a component of type '{names[0]}'")


@cache
def component_types() -> dict[str, type[BaseModel]]:
    """Return the class of each type of component, in the order of their names."""
    for file in pkgutil.iter_modules(import_module(TYPES).__path__, f"{TYPES}."):
        import_module(file.name)
    return dict(sorted(_registered.items()))


@cache
def _any_type() -> TypeAdapter[Any]:
    classes = tuple(component_types().values())
    union: Any = Union[classes]  # noqa: UP007
    return TypeAdapter(Annotated[union, Field(discriminator="type")])


def _checked(component: Any) -> Any:
    """Return an entry of `components` as an object of its type's class; pydantic's errors name type and setting."""
    return _any_type().validate_python(component)


class Correct(Section):
    """When a response counts as a right answer, which says nothing of its score."""

    component: str = Field(description="Name of the reward component that tells", min_length=1)
    at_least: float = Field(description="A response is right where that component is this or more")


class Reward(Section):
    """Scores of responses: the weighted sum of the components."""

    components: list[Annotated[Any, AfterValidator(_checked)]] = Field(
        min_length=1, description="Reward components, each a column"
    )

    correct: Annotated[Correct | None, AsBefore(None)] = Field(
        description="Which responses count as right answers: a share that is recorded, and what other settings go by; "
        "null: unknown"
    )

    @model_validator(mode="after")
    def _correct_is_a_component(self) -> "Reward":
        names = [component.name for component in self.components]
        if self.correct is not None and self.correct.component not in names:
            raise ValueError(
                f"correct.component: no component is called '{self.correct.component}', only {', '.join(names)}; name "
                "one of them, or set correct to null"
            )
        return self

    @field_validator("components")
    @classmethod
    def _names_are_free(cls, components: list[Any]) -> list[Any]:
        """Refuse names that would stand twice among columns of rewards.parquet or eval.parquet, or among metrics."""
        names = [name for component in components for name in component.column_names()]
        for name in names:
            if name in (*TAKEN_COLUMNS, *TAKEN_METRICS) or names.count(name) > 1:
                raise ValueError(f"the name '{name}' is taken; give each component a column name of its own")
        return components
