"""How tables and JSON are printed: for people on a terminal, for programs in a pipe."""

import json
from collections.abc import Iterable
from typing import Any

import click

from ..errors.terminal import json_spelled_out
from ..tables.joined import json_ready
from .literal import literal, token_text


def on_terminal() -> bool:
    """Return whether standard output is a terminal (or FORCE_COLOR says that it is to be taken for one)."""
    from rich.console import Console

    return Console().is_terminal


def print_table(columns: list[str], rows: Iterable[list[str]], right: Iterable[str] = (), lines: bool = False) -> None:
    """Print a table: drawn on a terminal; in a pipe a line of names and a line per row, tabs between the cells.

    right: columns whose cells end at the right. lines: draw a line between rows. In a pipe nothing is cut, wrapped or
    coloured, and a line feed or tab within a cell is spelled out.
    """
    if not on_terminal():
        for row in [columns, *rows]:
            click.echo("\t".join(map(token_text, row)))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_lines=lines)
    for name in columns:
        table.add_column(literal(name), justify="right" if name in set(right) else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(literal, row))
    Console().print(table)


def note(text: str) -> None:
    """Print what is said about a table: behind it on a terminal, on standard error where the table goes to a pipe."""
    click.echo(literal(text).plain, err=not on_terminal())


def heading(text: str) -> None:
    """Print a title between tables."""
    click.echo(f"\n{literal(text).plain}" if on_terminal() else f"\n# {token_text(text)}")


def json_text(value: Any, indent: int | None = None) -> str:
    """Return `value` as JSON with its text in full, in UTF-8; no control character stands in it as such."""
    return json_spelled_out(json.dumps(json_ready(value), ensure_ascii=False, allow_nan=False, indent=indent))
