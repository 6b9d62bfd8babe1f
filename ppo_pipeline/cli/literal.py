"""Text of models and data sets for the terminal: shown as it is, never obeyed."""

import re
from typing import Any

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line feed
TOKEN_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def literal(text: str, style: str = "") -> Any:
    """Return `text` as rich Text: no markup is read, and control characters are spelled out.

    A sampled response may hold an escape sequence, which would recolour or retitle the reader's terminal.
    """
    from rich.text import Text

    return Text(CONTROL.sub(_spelled, text), style=style)


def token_text(text: str) -> str:
    """Return a token's text on one line: line feeds and tabs are spelled out too."""
    return TOKEN_CONTROL.sub(_spelled, text)


def _spelled(match: "re.Match[str]") -> str:
    return repr(match.group())[1:-1]
