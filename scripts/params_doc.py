"""Write docs/params.md from the settings' own definitions: name, type and range, meaning, committed value.

python scripts/params_doc.py          check that the page is up to date
python scripts/params_doc.py --write  write it
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ppo_pipeline.settings import params as definitions
from ppo_pipeline.settings.params import OVERRIDABLE, Params, load_params
from ppo_pipeline.settings.reward_sections import component_types

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "params.md"


def limits(annotation: Any, field: FieldInfo | None = None) -> str:
    """Return a setting's type with its range, as a person writes it."""
    found_in_files = next((m for m in (field.metadata if field is not None else []) if hasattr(m, "meanings")), None)
    schema = {"definition": annotation if found_in_files is None else Annotated[annotation, found_in_files]}
    holder = type("Holder", (BaseModel,), {"__annotations__": schema})
    found = holder.model_json_schema()["properties"]["definition"]
    variants = found.get("anyOf", [found])
    text = " or ".join(_one(v) for v in variants)
    for rule in field.metadata if field is not None else []:
        for name, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
            if getattr(rule, name, None) is not None:
                text += f" {sign} {getattr(rule, name):g}"
    return text


def _one(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        return "list of " + _one(schema["items"])
    text = {"string": "text", "boolean": "true, false", "object": "map"}.get(
        schema.get("type", ""), schema.get("type", "")
    )
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    return " ".join([text, *(f"{sign} {schema[name]:g}" for name, sign in signs.items() if name in schema)])


def rows(cls: type[BaseModel], values: dict[str, Any] | None) -> Iterator[str]:
    """Yield a table row per setting of a section; without `values`, none is committed."""
    for name, field in cls.model_fields.items():
        shown = field.alias or name
        value = "" if values is None else json.dumps(values.get(shown))
        yield f"| `{shown}` | {limits(field.annotation, field)} | {value} | {meaning(field)} |"


def meaning(field: FieldInfo) -> str:
    """Return what a setting means; of one whose choices are found in files, what each of them says of itself too."""
    return ". ".join([field.description or "", *(m.meanings() for m in field.metadata if hasattr(m, "meanings"))])


def page() -> str:
    """Return the text of docs/params.md."""
    values = load_params(ROOT / "params.yaml").model_dump(by_alias=True)
    head = "| setting | type and range | committed value | meaning |\n|---|---|---|---|"
    parts = [
        "# Settings\n\nMade by `python scripts/params_doc.py --write` from the settings' definitions; a test checks it."
        " No setting has a hidden default: params.yaml holds them all.",
        f"## seed\n\n{Params.model_fields['seed'].description}: an integer >= 0; committed: {values['seed']}.",
    ]
    for name, field in Params.model_fields.items():
        if name in ("seed", "rounds"):
            continue
        if name == "sources":
            parts.append(f"## {name}\n\n{field.description}. Committed: none.")
            continue
        by_name = get_args(field.annotation)[1:]  # of dict[Name, Section]: a map from names
        cls = by_name[0] if by_name else field.annotation
        assert isinstance(cls, type)
        doc = (cls.__doc__ or "").strip()
        if by_name:
            parts.append(
                f"## {name}\n\n{doc} A map from a name to these. Committed: none.\n\n{head}\n"
                + "\n".join(rows(cls, None))
            )
        elif name == "reward":
            parts.append(f"## {name}\n\n{doc} `components` is a list; each entry is one of these.")
            for kind, cls in component_types().items():
                committed = next((c for c in values["reward"]["components"] if c["type"] == kind), None)
                text = (cls.__doc__ or "").strip()
                parts.append(f"### type: {kind}\n\n{text}\n\n{head}\n" + "\n".join(rows(cls, committed)))
        else:
            parts.append(f"## {name}\n\n{doc}\n\n{head}\n" + "\n".join(rows(cls, values[name])))
    sections = ", ".join(f"`{name}`" for name in OVERRIDABLE)
    parts.append(
        "## rounds\n\nA map from a round's name to its `parent` and to settings that hold in this round alone, in any"
        f" of {sections}: `r002: {{parent: r001, advantage: {{kl_coef: 0.1}}}}`. `{definitions.ROOT}` is the untrained"
        " policy. Two rounds with one parent are a branch."
    )
    return "\n\n".join(parts) + "\n"


@click.command()
@click.option("--write", is_flag=True, help="Write the page instead of checking it.")
def main(write: bool) -> None:
    """Check or write docs/params.md."""
    text = page()
    if write:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        click.echo("docs/params.md is out of date; run: python scripts/params_doc.py --write")
        sys.exit(1)


if __name__ == "__main__":
    main()
