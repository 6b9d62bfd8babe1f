"""The README's table of features names settings that there are, and links that lead somewhere."""

import re
from pathlib import Path

from ppo_pipeline.settings.params import Params

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def rows() -> list[str]:
    section = README.split("## What it does, beside others")[1].split("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("| ") and "**" not in line][1:]


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


def test_links_within_the_repository_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        path = ROOT / (file or "README.md")
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), target
