"""The table of features names settings that there are; links of the README and of docs/ lead somewhere."""

import re
from pathlib import Path

import pytest

from ppo_pipeline.settings.params import Params

ROOT = Path(__file__).resolve().parents[2]
COMPARISON = (ROOT / "docs/comparison.md").read_text(encoding="utf-8")
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]


def rows() -> list[str]:
    (table,) = [part for part in COMPARISON.split("\n\n") if part.startswith("| feature |")]
    return [line for line in table.splitlines() if "**" not in line][2:]


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_each_named_setting_exists() -> None:
    named = [match for row in rows() for match in re.findall(r"\[`(\w+)\.(\w+)", row)]
    assert len(named) > 40
    for section, setting in named:
        fields = Params.model_fields[section].annotation.model_fields  # type: ignore[union-attr]
        assert setting in {field.alias or name for name, field in fields.items()}, f"{section}.{setting}"


def test_each_row_has_as_many_cells_as_the_head() -> None:
    assert {row.count(" | ") for row in rows()} == {6}


@pytest.mark.parametrize("page", PAGES)
def test_links_within_the_repository_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), target


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
