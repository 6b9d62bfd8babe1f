"""A JSON schema of params.yaml, made of the settings' classes, by which editors complete, explain and check a file."""

from copy import deepcopy
from typing import Any

from .params import OVERRIDABLE, Params
from .reward_sections import component_types

FILE = "params.schema.json"
HEAD = f"# yaml-language-server: $schema={FILE}"  # by a path beside params.yaml: no network


def params_schema() -> dict[str, Any]:
    """Return the schema; draft 7, which the YAML server of editors reads best.

    A section is checked by its class, a reward component by the class of its type. A round may have any of the
    settings of the sections that it may override.
    """
    schema = Params.model_json_schema(by_alias=True)
    definitions = schema["$defs"]
    for kind, cls in component_types().items():
        component = cls.model_json_schema(by_alias=True)
        definitions |= component.pop("$defs", {})
        definitions[f"component_{kind}"] = component
    kinds = [{"$ref": f"#/$defs/component_{kind}"} for kind in component_types()]
    definitions["Reward"]["properties"]["components"]["items"] = {"oneOf": kinds}
    for name in OVERRIDABLE:
        section = definitions["Round"]["properties"][name]
        if "type" in section:  # a section; `seed` is a number
            some = deepcopy(definitions[Params.model_fields[name].annotation.__name__])  # type: ignore[union-attr]
            some.pop("required", None)
            definitions["Round"]["properties"][name] = some | {"description": "Settings of this round alone"}
    return {"$schema": "http://json-schema.org/draft-07/schema#", **_without_titles(schema)}


def _without_titles(node: Any, names: bool = False) -> Any:
    """Return the schema without the titles that pydantic makes of names; names: whether node's keys are settings."""
    if isinstance(node, list):
        return [_without_titles(each) for each in node]
    if not isinstance(node, dict):
        return node
    kept = {key: value for key, value in node.items() if names or key != "title"}
    return {key: _without_titles(value, not names and key in ("properties", "$defs")) for key, value in kept.items()}
