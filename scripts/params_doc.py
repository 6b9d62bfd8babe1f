"""Write docs/params.md and params.schema.json from the settings' own definitions.

The page has name, type and range, meaning, committed value of each; the schema is for editors.

python scripts/params_doc.py          check that both are up to date
python scripts/params_doc.py --write  write them
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
from ppo_pipeline.settings.json_schema import FILE, params_schema
from ppo_pipeline.settings.other_names import TABLE
from ppo_pipeline.settings.params import OVERRIDABLE, Params, load_params
from ppo_pipeline.settings.reward_sections import component_types

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "params.md"
INTRODUCTION = """\
# Settings

Made by `python scripts/params_doc.py --write` from the settings' definitions; a test checks it. No setting has a hidden
default: params.yaml holds them all.

A params.yaml of an earlier version lacks some: `ppo-pipeline params upgrade` adds them, each with the value that keeps
what the file did, and says which. Comments, order and layout stay. What is faster since, it leaves off: it writes
`compute.kernels: torch` and `reference.share_prefix: false`, where new projects have auto and tree.

Editors with a YAML server (VS Code's YAML extension, Neovim, Helix) complete, explain and check params.yaml by
`params.schema.json` beside it, which its first line names; no network is asked."""
FIRST = {  # the settings that people change first, and when
    "base.model": "another model",
    "prompts.source": "other prompts",
    "reward.components": "what is rewarded; `reward.correct` says which answers count as right",
    "rollout.max_new_tokens": "answers are cut (`eval/finished` below 1), or may be shorter; `evaluate` has its own",
    "rollout.prompts_per_round": "more prompts a round: less noise in each step, and more time",
    "rollout.samples_per_prompt": "4 or more for estimators that compare answers to one prompt: grpo, rloo",
    "rollout.temperature": "answers are all alike: higher; or run wild: lower",
    "advantage.kl_coef": "the policy drifts into odd texts: higher; or learns too little: lower",
    "update.lr": "the reward does not move: higher; or the KL leaps: lower. `value_lr` is the critic's",
    "update.schedule_rounds": "the number of rounds that are planned, over which the learning rate falls",
    "update.minibatches": "how many steps a pass over the round's samples makes; `epochs` is the number of passes",
    "policy.rank": "larger adapters; `policy.tuning: full` trains all weights",
    "evaluate.max_prompts": "evaluation takes too long",
}


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


def first(values: dict[str, Any]) -> str:
    """Return the part of the page with the settings that people change first."""
    parts = ["## Changed first\n\n| setting | committed value | change it for |\n|---|---|---|"]
    for path, reason in FIRST.items():
        section, name = path.split(".")
        value = "" if name == "components" else json.dumps(values[section][name])
        parts.append(f"| [`{path}`](#{section}) | {value} | {reason} |")
    return "\n".join(parts) + "\n\nRounds are a section too, [`rounds`](#rounds)."


def other_names() -> str:
    """Return the part of the page with TRL's and verl's names."""
    head = "| here | PPOConfig | GRPOConfig | verl | what differs |\n|---|---|---|---|---|"
    lines = []
    for each in TABLE:
        names = [
            ", ".join(f"`{name}`" for name in text.split(", ") if name) for text in (each.ppo, each.grpo, each.verl)
        ]
        lines.append(f"| `{each.here}` | {' | '.join(names)} | {each.differs} |")
    return (
        "## In TRL and verl\n\nWhat the settings are called in TRL 1.12.0 and in verl, where `actor.`, `rollout.` and "
        "`model.` are parts of `actor_rollout_ref`. params.yaml takes the names on the left alone; an error about "
        f"one of the others says which that is.\n\n{head}\n" + "\n".join(lines)
    )


def page() -> str:
    """Return the text of docs/params.md."""
    values = load_params(ROOT / "params/skills.yaml").model_dump(by_alias=True)
    head = "| setting | type and range | committed value | meaning |\n|---|---|---|---|"
    parts = [
        INTRODUCTION,
        first(values),
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
        " The main line, which the curves follow, goes on with the one that has `main: true`, else with the first."
    )
    parts.append(other_names())
    return "\n\n".join(parts) + "\n"


def schema() -> str:
    """Return the text of params.schema.json."""
    return json.dumps(params_schema(), indent=1, ensure_ascii=False) + "\n"


@click.command()
@click.option("--write", is_flag=True, help="Write the page instead of checking it.")
def main(write: bool) -> None:
    """Check or write docs/params.md and params.schema.json."""
    for path, text in {PAGE: page(), ROOT / FILE: schema()}.items():
        if write:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            name = path.relative_to(ROOT).as_posix()
            click.echo(f"{name} is out of date; run: python scripts/params_doc.py --write")
            sys.exit(1)


if __name__ == "__main__":
    main()
