"""Text of models and data sets for the terminal: shown as it is, never obeyed."""

from typing import Any

from ..errors.terminal import spelled_out


def literal(text: str, style: str = "") -> Any:
    """Return `text` as rich Text: no markup is read, and control characters are spelled out.

    A sampled response may hold an escape sequence, which would recolour or retitle the reader's terminal.
    """
    from rich.text import Text

    return Text(spelled_out(text), style=style)


def token_text(text: str) -> str:
    """Return a token's text on one line: line feeds and tabs are spelled out too."""
    return spelled_out(text).replace("\n", "\\n").replace("\t", "\\t")
