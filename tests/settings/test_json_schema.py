"""params.schema.json, which editors read: it takes what the settings take, and refuses what they refuse."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from ppo_pipeline.settings.json_schema import FILE, HEAD, params_schema

jsonschema = pytest.importorskip("jsonschema")
ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / FILE).read_text(encoding="utf-8"))


def load(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


DATA = load(ROOT / "params.yaml")


def test_the_committed_schema_is_that_of_the_settings_and_params_yaml_names_it() -> None:
    same = params_schema() == SCHEMA
    assert same, "python scripts/params_doc.py --write"  # not the difference, which is long
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert (ROOT / "params.yaml").read_text(encoding="utf-8").startswith(f"{HEAD}\n")


def test_the_committed_settings_and_the_preset_with_every_section_fit() -> None:
    for path in (ROOT / "params.yaml", ROOT / "params/rlhf.yaml"):
        assert list(jsonschema.Draft7Validator(SCHEMA).iter_errors(load(path))) == []


@pytest.mark.parametrize(
    ("path", "value", "fits"),
    [
        ("update.lr", 0, False),
        ("update.lr", 1, True),
        ("update.learning_rate", 0.1, False),
        ("update.target_kl", None, True),
        ("advantage.estimator", "rloo", True),
        ("advantage.estimator", "ppo", False),
        ("advantage.lambda", 0.5, True),
        ("reward.components.0.match", "exakt", False),
        ("reward.components.0.type", "python", False),
        ("reward.components.0.tolerance", 1.0, True),
        ("rounds.r002", {"parent": "r001", "advantage": {"kl_coef": 0.1}, "seed": 3, "main": True}, True),
        ("rounds.r002", {"parent": "r001", "advantage": {"kl_coeff": 0.1}}, False),
        ("rounds.r002", {"parnet": "r001"}, False),
        ("policy", {}, False),
        ("sft", {"x": {}}, False),
    ],
)
def test_it_takes_and_refuses_as_the_settings_do(path: str, value: Any, fits: bool) -> None:
    data = deepcopy(DATA)
    section = data
    *sections, last = path.split(".")
    for name in sections:
        section = section[int(name) if name.isdigit() else name]
    section[last] = value
    assert jsonschema.Draft7Validator(SCHEMA).is_valid(data) == fits
