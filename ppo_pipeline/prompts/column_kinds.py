"""What the prompts' columns hold, in words, for messages; it imports nothing heavy, as every command reads it."""

from decimal import Decimal
from typing import Any

KINDS: dict[type, str] = {str: "text", bool: "true or false", int: "whole numbers", float: "numbers"}


def columns_told(columns: dict[str, list[Any]]) -> str:
    """Return names and types of columns: `topic (text), level (whole numbers)`."""
    return ", ".join(f"{name} ({kind_told(values)})" for name, values in columns.items()) or "none"


def kind_told(values: list[Any]) -> str:
    """Return what a table's column holds; all its values but None are of one type."""
    given = [value for value in values if value is not None]
    if not given:
        return "empty"
    if isinstance(given[0], list):
        return f"lists of {kind_told([item for value in given for item in value])}"
    if isinstance(given[0], Decimal):
        return "numbers"
    return KINDS.get(type(given[0]), "records" if isinstance(given[0], dict) else type(given[0]).__name__)
