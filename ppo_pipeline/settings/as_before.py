"""The value of a setting that keeps what ran before there was the setting: stated at the setting, once.

`ppo-pipeline params upgrade` writes it into an older params.yaml, and errors for missing settings name it. A setting of
the first version has none: what it should be, the user alone knows.
"""

import json
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

NO_VALUE = object()


@dataclass(frozen=True)
class AsBefore:
    """Marks a setting that came later: `top_k: Annotated[Count | None, AsBefore(None)]`."""

    value: Any


def value_before(field: FieldInfo) -> Any:
    """Return a setting's value that keeps what was before it; NO_VALUE where there is none.

    Of a section that came later as a whole, that of each of its settings.
    """
    marks = [mark.value for mark in field.metadata if isinstance(mark, AsBefore)]
    if marks:
        return marks[0]
    cls = section_of(field)
    if cls is None or entry_class(field) is not None:
        return NO_VALUE
    values = {inner.alias or name: value_before(inner) for name, inner in cls.model_fields.items()}
    return NO_VALUE if not values or NO_VALUE in values.values() else values


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the class of a section, or of the entries of a map from names; None for a setting with a value."""
    inner = [field.annotation, *get_args(field.annotation)]
    return next((cls for cls in inner if isinstance(cls, type) and issubclass(cls, BaseModel)), None)


def entry_class(field: FieldInfo) -> type[BaseModel] | None:
    """Return the class of the entries where a section is a map from names, such as `sft`; else None."""
    return section_of(field) if getattr(field.annotation, "__origin__", None) is dict else None


def as_yaml(value: Any) -> str:
    """Return such a value as one line of YAML; texts among them are plain words."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {as_yaml(each)}" for name, each in value.items()) + "}"
    return value if isinstance(value, str) else json.dumps(value)
