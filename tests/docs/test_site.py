"""The docs site: every page has its place in it, and links out of docs/ become something that leads on or is text."""

import docs_hooks
from ruamel.yaml import YAML
from test_readme import ROOT

TEXT = "See [the params](../params.yaml), [a type](../CONTRIBUTING.md#a-reward-type), [rewards](rewards.md#python)."


def pages(entry: object) -> list[str]:
    """Return the pages of a part of the navigation, in order."""
    if isinstance(entry, str):
        return [entry]
    parts = entry if isinstance(entry, list) else list(entry.values()) if isinstance(entry, dict) else []
    return [page for part in parts for page in pages(part)]


def test_each_page_is_in_the_navigation_once() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").replace("!!python/object/apply:", "#")
    found = pages(YAML(typ="safe").load(text)["nav"])
    assert sorted(found) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_links_to_files_of_the_repository_lead_to_it_or_name_them() -> None:
    plain = docs_hooks.on_page_markdown(TEXT, config={"repo_url": None}, page=None, files=None)
    assert plain == "See the params (`params.yaml`), a type (`CONTRIBUTING.md`), [rewards](rewards.md#python)."
    linked = docs_hooks.on_page_markdown(TEXT, config={"repo_url": "https://git.example/x/"})
    assert "[a type](https://git.example/x/blob/main/CONTRIBUTING.md#a-reward-type)" in linked
    assert "[the params](https://git.example/x/blob/main/params.yaml)" in linked
