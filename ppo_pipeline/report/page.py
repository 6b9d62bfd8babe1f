"""The HTML file: template, style, scripts and data in one, with a policy that forbids all else."""

import base64
import hashlib
from pathlib import Path
from typing import Any

from .blocks import packed
from .contents import Contents

HERE = Path(__file__).parent
STYLES = ["vendor/uPlot.min.css", "vendor/tabulator_simple.min.css", *(f"template/{n}.css" for n in ("page", "parts"))]
LIBRARIES = ["vendor/uPlot.iife.min.js", "vendor/tabulator.min.js"]
# One scope, in this order; each file is one idea.
SCRIPTS = [
    "dom", "data", "theme", "charts", "curves", "against", "compared", "times", "distributions", "scatter", "colours",
    "tokens", "turns", "table", "samples", "best", "answers", "heldout", "watched", "main",
]  # fmt: skip


def page(contents: Contents, title: str) -> str:
    """Return the page as HTML text: the same text for the same contents."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    style = "\n".join(_text(name) for name in STYLES)
    own = "\n".join(_text(f"template/{name}.js") for name in SCRIPTS)
    scripts = [*(_text(name) for name in LIBRARIES), f'(() => {{\n"use strict";\n{own}}})();\n']
    for text in scripts:
        if "</script" in text.lower() or "<!--" in text:
            raise ValueError("a script of the page would end its own element")
    files = FileSystemLoader(HERE / "template")
    environment = Environment(loader=files, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    values: dict[str, Any] = {
        "title": title,
        "policy": _policy(scripts, style),
        "style": Markup(style),
        "scripts": [Markup(text) for text in scripts],
        "blocks": {name: packed(value) for name, value in contents.blocks.items()},
    }
    return environment.get_template("page.html").render(values)


def _policy(scripts: list[str], style: str) -> str:
    """Return the Content-Security-Policy: nothing is loaded, and only these very scripts and this style are used."""
    return (
        f"default-src 'none'; script-src {' '.join(_digest(text) for text in scripts)}; style-src {_digest(style)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _text(name: str) -> str:
    """Return a file of this folder, without the line that names its source map: it would be looked for on disk."""
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if "sourceMappingURL=" not in line) + "\n"
