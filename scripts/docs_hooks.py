"""What MkDocs does with links to files of the repository: they lead there, or name the file where no URL is known."""

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]*)\]\(\.\./([^)#]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, *, config: Any, **_: Any) -> str:
    """Return a page's text with links that leave docs/ rewritten; tests/docs/test_readme.py checks them as written."""

    def rewritten(match: re.Match[str]) -> str:
        text, path, anchor = match[1], match[2], match[3] or ""
        if config["repo_url"]:
            return f"[{text}]({config['repo_url'].rstrip('/')}/blob/main/{path}{anchor})"
        return f"{text} (`{path}`)"

    return OUTSIDE.sub(rewritten, markdown)
