"""Errors of settings: where each stands in params.yaml, what is wrong, the nearest valid name."""

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ..errors import nearest
from .as_before import NO_VALUE, as_yaml, entry_class, section_of, value_before
from .former_names import FORMER
from .other_names import called_here
from .reward_sections import component_types

MOST = 8  # lines for settings that came later


def explain(error: ValidationError, cls: type[BaseModel], source: str) -> str:
    """Turn pydantic's errors into one line per setting: its path, what is wrong, the nearest valid name."""
    lines: list[str] = []
    later: list[str] = []  # of settings that came with a later version than the file is of
    for item in error.errors():
        path = ".".join(str(part) for i, part in enumerate(item["loc"]) if not _is_type(item["loc"], i))
        value = item.get("input")
        if item["type"] == "extra_forbidden":
            text = f"no such setting.{_meant(cls, item['loc'])}"
        elif item["type"] == "missing":
            field = _fields(cls, item["loc"][:-1]).get(str(item["loc"][-1]))
            before = NO_VALUE if field is None else value_before(field)
            text = "this setting is missing; no setting has a hidden default."
            if before is not NO_VALUE:
                told = f"`{item['loc'][-1]}: {as_yaml(before)}` keeps what ran before it came"
                later.append(f"{source}: {path}: this setting is missing; {told}.")
                continue
        else:
            text = f"{item['msg'][0].lower()}{item['msg'][1:]}".removeprefix("value error, ")
            # Where settings disagree there is no place, and of a section or list no value to show.
            shown = item["loc"] and not _is_private(cls, item["loc"]) and not isinstance(value, (dict, list))
            text += f", found {_shown(value)}." if shown else "."
            if shown and isinstance(value, str) and _is_number(value):
                text += f" It is text to YAML; write it without quotes and with a decimal point: {float(value)!r}."
        lines.append(f"{source}: {path}: {text}" if path else f"{source}: {text}")
    rest = [f"... and {len(later) - MOST} more settings that are missing."] if len(later) > MOST else []
    lines += later[:MOST] + rest
    if later and "rounds" in cls.model_fields:
        file = source.partition(" (")[0]
        command = "`ppo-pipeline params upgrade`" if file == "params.yaml" else f"`ppo-pipeline params upgrade {file}`"
        lines.append(f"{command} adds {len(later)} such lines, each with the value that keeps what ran before it came.")
    return "\n".join(lines)


def _meant(cls: type[BaseModel], loc: tuple[int | str, ...]) -> str:
    """Return what an unknown name may stand for: a former name, one of another section, of TRL or verl, a near one."""
    name, section = str(loc[-1]), ".".join(str(part) for part in loc[:-1])
    if f"{section.rpartition('.')[2]}.{name}" in FORMER:
        return f" `{name}` is a former name; `ppo-pipeline params upgrade` writes today's."
    others = [
        f"{other}.{name}"
        for other, field in cls.model_fields.items()
        if (inner := section_of(field)) is not None and entry_class(field) is None and other != section
        if name in {field.alias or each for each, field in inner.model_fields.items()}
    ]
    own = f" `{name}` is a setting of `{others[0].partition('.')[0]}`: {others[0]}." if len(others) == 1 else ""
    return own + called_here(name) or nearest(name, list(_fields(cls, loc[:-1])))


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
