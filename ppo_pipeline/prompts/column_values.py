"""What the values of a prompt's further columns mean: answers, and truth values.

Functions raise ValueError for a value that means neither, with words that go on after its name: "is empty".
"""

import math
import re
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

Answer = str | int | float | Decimal
TRUE, FALSE = ("true", "yes", "1"), ("false", "no", "0", "")
NARROW: dict[pa.DataType, type[np.floating[Any]]] = {pa.float16(): np.float16, pa.float32(): np.float32}
DIGITS = re.compile(r"-?[0-9]{1,17}(\.[0-9]{1,17})?")
MOST_CERTAIN = 2**53  # a larger whole float need not be the number that was written


def truth(value: Any) -> bool:
    """Return the truth value that a column holds: true, yes or 1; false, no or 0, in any case; empty is false."""
    if _is_empty(value):
        return False
    if isinstance(value, str):
        word = value.strip().casefold()
        if word in TRUE or word in FALSE:
            return word in TRUE
    elif isinstance(value, (bool, int, float, np.bool_, np.number)) and value in (0, 1):
        return bool(value)
    raise ValueError(f"is {_shown(value)}; write true or false")


def answers(value: Any) -> list[Answer]:
    """Return the answers that a cell allows, texts or numbers: one, or those of a list."""
    if isinstance(value, list):
        if not value:
            raise ValueError("is empty")
        if any(isinstance(item, list) for item in value):
            raise ValueError("holds a list within a list; write one list of texts or numbers")
        return [one for item in value for one in answers(item)]
    if isinstance(value, np.generic):
        value = float(str(value)) if isinstance(value, np.floating) else value.item()
    if _is_empty(value):
        raise ValueError("is empty")
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        raise ValueError(f"is {_shown(value)}, neither a text nor a number nor a list of these")
    if not isinstance(value, str) and not math.isfinite(value):
        raise ValueError(f"is {_shown(value)}, no finite number")
    return [value]


def text_of(answer: Answer) -> str:
    """Return an answer as text: a text as it is, a whole number without a point (5 for 5.0), others as 0.1."""
    if isinstance(answer, (str, int)):
        return str(answer)
    if isinstance(answer, Decimal):
        return f"{answer.normalize():f}"
    if answer.is_integer() and abs(answer) <= MOST_CERTAIN:
        return str(int(answer))
    text = repr(answer)
    if "e" in text or answer.is_integer():
        raise ValueError(f"is {text}, a number that may be written in more than one way; put it in quotes, as text")
    return text


def uniform(values: list[Any]) -> list[Any]:
    """Return a column's values so that a table takes none for one of another type.

    Texts or numbers that are a list in some rows become lists in all, and numbers beside texts become texts: any
    column may be that of the answers.
    """
    items = [item for value in values for item in (value if isinstance(value, list) else [value])]
    kinds = {_kind(item) for item in items} - {"empty"}
    if {"truth", "number"} <= kinds:  # beside 2.5 Arrow would take true for 1.0
        raise ValueError("true or false in some rows, numbers in others")
    if not kinds <= {"text", "number"}:
        return values
    if kinds == {"text", "number"}:
        values = [_each(lambda one: None if _is_empty(one) else text_of(one), value) for value in values]
    if any(isinstance(value, list) for value in values):
        values = [value if isinstance(value, list) or _is_empty(value) else [value] for value in values]
    return values


def as_written(table: pa.Table) -> pa.Table:
    """Return `table` with columns of narrow floats as doubles of the same shortest digits: 0.1, not 0.10000000149."""
    for place, name in enumerate(table.column_names):
        kind = table.schema.field(place).type
        while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            kind = kind.value_type
        if kind in NARROW:
            narrow = NARROW[kind]
            values = [_each(partial(_widened, narrow), value) for value in table.column(place).to_pylist()]
            table = table.set_column(place, name, pa.array(values))
    return table


def numbers_of_text(column: list[str]) -> list[Any]:
    """Return the cells of a text file's column as numbers where each filled one is a number in its shortest form.

    That is the text that `text_of` makes of the number: 5, -3, 0.25. A column with one cell such as 007, +5, 5.0, 1e3
    or 1,000 stays text, so that no type changes what an answer is compared as. Empty cells are None beside numbers.
    """
    numbers = [_number(cell) if cell else None for cell in column]
    is_text = any(cell and number is None for cell, number in zip(column, numbers, strict=True))
    return column if is_text or not any(column) else numbers


def _number(cell: str) -> int | float | None:
    if not DIGITS.fullmatch(cell):
        return None
    number = float(cell) if "." in cell else int(cell)
    try:
        return number if text_of(number) == cell and abs(number) <= MOST_CERTAIN else None
    except ValueError:  # one as small as 0.00001 may be written in more than one way
        return None


def _widened(narrow: type[np.floating[Any]], value: float | None) -> float | None:
    return None if value is None else float(str(narrow(value)))


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """Return `change` of a value, or of each item of a list."""
    return [_each(change, item) for item in value] if isinstance(value, list) else change(value)


def _kind(value: Any) -> str:
    if _is_empty(value):
        return "empty"
    if isinstance(value, bool):
        return "truth"
    return "text" if isinstance(value, str) else "number" if isinstance(value, (int, float, Decimal)) else "other"


def _is_empty(value: Any) -> bool:
    """Tell what stands for no value: none, blank text, and the NaN of pandas."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, (float, Decimal, np.floating)) and value != value)


def _shown(value: Any) -> str:
    return f"{value!r:.60}"
