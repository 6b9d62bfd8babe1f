"""Errors of settings: where each stands in params.yaml, what is wrong, the nearest valid name."""

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ..errors import nearest
from .reward_sections import component_types


def explain(error: ValidationError, cls: type[BaseModel], source: str) -> str:
    """Turn pydantic's errors into one line per setting: its path, what is wrong, the nearest valid name."""
    lines = []
    for item in error.errors():
        path = ".".join(str(part) for i, part in enumerate(item["loc"]) if not _is_type(item["loc"], i))
        value = item.get("input")
        if item["type"] == "extra_forbidden":
            known = list(_fields(cls, item["loc"][:-1]))
            text = f"no such setting.{nearest(str(item['loc'][-1]), known)}"
        elif item["type"] == "missing":
            text = "this setting is missing; no setting has a hidden default."
        else:
            text = f"{item['msg'][0].lower()}{item['msg'][1:]}".removeprefix("value error, ")
            # Where settings disagree there is no place, and of a section or list no value to show.
            shown = item["loc"] and not _is_private(cls, item["loc"]) and not isinstance(value, (dict, list))
            text += f", found {_shown(value)}." if shown else "."
            if shown and isinstance(value, str) and _is_number(value):
                text += f" It is text to YAML; write it without quotes and with a decimal point: {float(value)!r}."
        lines.append(f"{source}: {path}: {text}" if path else f"{source}: {text}")
    return "\n".join(lines)


def _shown(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return "a number of thousands of digits"


def _is_type(loc: tuple[int | str, ...], i: int) -> bool:
    """Tell a component's type, which pydantic puts into the path after its index; params.yaml has no such level."""
    return i > 0 and isinstance(loc[i - 1], int) and loc[i] in component_types()


def _is_private(cls: type[BaseModel], loc: tuple[int | str, ...]) -> bool:
    """Tell a setting whose field has repr=False: what was put there by mistake, a password, stays out of messages."""
    field = _fields(cls, loc[:-1]).get(str(loc[-1]))
    return field is not None and not field.repr


def _fields(cls: type[BaseModel], loc: tuple[int | str, ...]) -> dict[str, FieldInfo]:
    """Return the settings of the section at `loc` by name, walking from class `cls`."""
    for i, part in enumerate(loc):
        if _is_type(loc, i):
            cls = component_types()[str(part)]
            continue
        field = next((f for n, f in cls.model_fields.items() if part in (n, f.alias)), None)
        if field is None:  # an index of a list or a key of a map: their class was taken at the step before
            continue
        inner = [field.annotation, *getattr(field.annotation, "__args__", ())]
        cls = next((c for c in inner if isinstance(c, type) and issubclass(c, BaseModel)), cls)
    return {f.alias or n: f for n, f in cls.model_fields.items()}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
