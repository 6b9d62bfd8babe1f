"""`--where`: the rows of a table for which a SQL condition holds.

SQLite evaluates it in memory: it is in the standard library and starts at once, and an authorizer lets a condition
read these rows and nothing else. DuckDB would be one more dependency, and its functions can open files.
"""

import json
import re
import sqlite3
from contextlib import closing
from typing import Any

import pyarrow as pa

from ..errors import PipelineError, nearest
from ..tables.joined import json_ready

ROW = "_row_"
# Text in single quotes, a quoted name, a dotted name: SQLite would take the last for a table's column, and a quoted
# name that it does not know for text.
NAME = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|(?<![\w.])[^\W\d]\w*(?:\.\w+)+""")


def matching(rows: pa.Table, condition: str) -> pa.Table:
    """Return the rows for which `condition` holds, in their order.

    Columns by name, also quoted or dotted; lists are JSON text. Beside what SQLite has (and, or, not, in, like,
    between, is null, its functions) there are contains(text, part) and `text regexp 'pattern'`.
    """
    names = known_columns(rows)
    try:
        with closing(sqlite3.connect(":memory:")) as database:
            return rows.take(_found(database, rows, names, NAME.sub(lambda m: _name(m.group(), names), condition)))
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        raise PipelineError(f'--where "{condition}": {_explained(str(error), names)}') from None


def known_columns(rows: pa.Table) -> dict[str, str]:
    """Return the columns' SQL types by name; of names that differ in case alone, the first: SQL knows no difference."""
    names: dict[str, str] = {}
    for field in rows.schema:
        if field.name.lower() not in {name.lower() for name in names}:
            whole = pa.types.is_integer(field.type) or pa.types.is_boolean(field.type)
            names[field.name] = "INTEGER" if whole else "REAL" if pa.types.is_floating(field.type) else "TEXT"
    return names


def _found(database: sqlite3.Connection, rows: pa.Table, names: dict[str, str], condition: str) -> pa.Array:
    """Return the numbers of the rows found. Only those columns are loaded that the condition reads."""
    database.create_function("contains", 2, lambda text, part: None if None in (text, part) else str(part) in str(text))
    database.create_function("regexp", 2, lambda pattern, text: None if text is None else _search(pattern, text))
    columns = "".join(f", {_quoted(name)} {kind}" for name, kind in names.items())
    database.execute(f"CREATE TABLE rows ({ROW} INTEGER PRIMARY KEY{columns})")
    query, read = f"SELECT {ROW} FROM rows WHERE (\n{condition}\n)", set()

    def authorize(action: int, first: str | None, second: str | None, *_: Any) -> int:
        if action == sqlite3.SQLITE_READ and first == "rows":
            read.add(second)
        allowed = action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_FUNCTION)
        return sqlite3.SQLITE_OK if allowed or (action, first) == (sqlite3.SQLITE_READ, "rows") else sqlite3.SQLITE_DENY

    database.set_authorizer(authorize)
    database.execute(query)  # on no rows: refuses what is wrong, and tells what is read
    database.set_authorizer(None)
    loaded = [name for name in names if name in read]
    values = [range(rows.num_rows), *(map(_sql, rows.column(name).to_pylist()) for name in loaded)]
    into = ", ".join([ROW, *map(_quoted, loaded)])
    marks = ", ".join("?" * len(values))
    database.executemany(f"INSERT INTO rows ({into}) VALUES ({marks})", zip(*values, strict=True))
    database.set_authorizer(authorize)
    return pa.array(sorted(row for (row,) in database.execute(query)), pa.int64())


def _name(found: str, names: dict[str, str]) -> str:
    if found.startswith("'"):
        return found
    name = found[1:-1].replace('""', '"') if found.startswith('"') else found
    if name.lower() not in {known.lower() for known in names}:
        text = " Text stands in single quotes." if found.startswith('"') else ""
        raise ValueError(f"no such column: {name}{text}")
    return _quoted(name)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _search(pattern: str, text: Any) -> bool:
    return re.search(str(pattern), str(text)) is not None


def _sql(value: Any) -> Any:
    """Return a value as SQLite can hold it; lists and records become JSON text."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, dict)):
        return json.dumps(json_ready(value), ensure_ascii=False)
    return str(value)


def _explained(error: str, names: dict[str, str]) -> str:
    """Return SQLite's message with a cure."""
    missing, _, name = error.partition("no such column: ")
    if name and not missing:
        name, space, more = name.partition(" Text stands")
        close = "" if space else nearest(name, list(names))
        return f"no column '{name}'.{close}{space}{more} There are: {', '.join(names)}."
    if "not authorized" in error or "prohibited" in error or "one statement" in error:
        return "a condition can read the table's columns and nothing else."
    if "user-defined function" in error:
        return "regexp: not a regular expression of Python."
    return f"{error}; write a condition such as score < 0 and finish_reason = 'length'."
