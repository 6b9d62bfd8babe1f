"""The text of data/settings/, and how two such settings differ."""

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from .params import ROOT, Params
from .stage_settings import ROUND_STAGES, EvaluateSettings

MISSING = object()


def settings_texts(params: Params) -> Iterator[tuple[str, str, str]]:
    """Yield round, stage and the text of data/settings/<round>/<stage>.json, for r000 and each open round."""
    for name in [ROOT, *params.rounds]:
        for stage, settings in {"evaluate": EvaluateSettings}.items() if name == ROOT else ROUND_STAGES.items():
            yield name, stage, settings.of(params, name).model_dump_json(by_alias=True, indent=2) + "\n"


def flattened(value: Any, name: str = "") -> dict[str, Any]:
    """Return nested settings as one map: advantage.kl_coef, reward.components[0].weight."""
    if isinstance(value, dict):
        parts = {f"{name}.{key}" if name else str(key): item for key, item in value.items()}
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        parts = {f"{name}[{place}]": item for place, item in enumerate(value)}
    else:
        return {name: value}
    return {path: leaf for key, item in parts.items() for path, leaf in flattened(item, key).items()}


def public(value: Any) -> Any:
    """Return settings as plain data, without what stays out of messages: a password may be in it by mistake."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields.items()
        return {field.alias or name: public(getattr(value, name)) for name, field in fields if field.repr}
    if isinstance(value, dict):
        return {name: public(item) for name, item in value.items()}
    return [public(item) for item in value] if isinstance(value, list | tuple) else value


def differences(first: dict[str, Any], second: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the flattened settings that differ, with both values; MISSING for one that is in the other alone."""
    names = dict.fromkeys([*first, *second])
    pairs = {name: (first.get(name, MISSING), second.get(name, MISSING)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] is MISSING or pair[0] != pair[1]}


def told(value: Any) -> str:
    """Return a setting's value as params.yaml would have it; a dash for one that is missing."""
    return "-" if value is MISSING else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
