"""Files that other programs read: Dockerfile, .pre-commit-config.yaml, issue forms. They fit what they speak of."""

import re
import tomllib
from pathlib import Path
from typing import Any

from installed import repository_files
from ruamel.yaml import YAML
from test_readme import ROOT

import ppo_pipeline

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def loaded(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))


def test_the_image_gets_all_that_the_wheel_is_built_of() -> None:
    copied = re.findall(r"^COPY (.*) \S+$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    needed = {"pyproject.toml", "setup.py", "constraints.txt", PYPROJECT["project"]["readme"], "ppo_pipeline", "stages"}
    needed |= set(PYPROJECT["project"]["license-files"])
    needed |= set(repository_files())
    missing = {n for n in needed if not any(n == source or n.startswith(f"{source}/") for source in sources)}
    assert not missing
    assert all((ROOT / source).exists() for source in sources)


def test_the_version_is_one() -> None:
    assert PYPROJECT["project"]["version"] == ppo_pipeline.__version__


def test_commits_are_checked_by_what_make_lint_runs_and_fetch_nothing() -> None:
    repos = loaded(ROOT / ".pre-commit-config.yaml")["repos"]
    hooks = [hook for repo in repos for hook in repo["hooks"]]
    assert [repo["repo"] for repo in repos] == ["local"] and {hook["language"] for hook in hooks} == {"system"}
    lint = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nlint:")[2].partition("\n\n")[0]
    commands = {command.strip().split()[0] for command in lint.splitlines()[1].split("&&")[1:]}
    assert commands <= {hook["entry"].split()[0] for hook in hooks}
    assert all((ROOT / word).exists() for hook in hooks for word in hook["entry"].split() if word.endswith(".py"))


def test_issue_forms_are_what_a_forge_takes() -> None:
    forms = [path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    assert len(forms) == 2
    for form in map(loaded, forms):
        assert form["name"] and form["description"]
        fields = [field for field in form["body"] if field["type"] != "markdown"]
        assert len({field["id"] for field in fields}) == len(fields)
        assert all(field["attributes"]["label"] for field in fields)
