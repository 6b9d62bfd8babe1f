"""The order and the columns of a table that is to be printed."""

from collections.abc import Sequence

import pyarrow as pa

from ..errors import PipelineError, nearest


def in_order(rows: pa.Table, sort: Sequence[str], source: str, descending: bool = False) -> pa.Table:
    """Return the rows sorted by the columns `sort`, each with a minus before it for high to low.

    Equal rows keep their order. Raises PipelineError for a column that is not there or holds a list in each row.
    """
    keys = []
    for given in sort:
        column = given if given in rows.column_names else given.removeprefix("-")
        _refuse_unknown(rows, column, source)
        if pa.types.is_nested(rows.schema.field(column).type):
            flat = [field.name for field in rows.schema if not pa.types.is_nested(field.type)]
            raise PipelineError(
                f"{source}: column '{column}' holds a list in each row and has no order; sort by one of "
                f"{', '.join(flat)}."
            )
        keys.append((column, "descending" if descending or column != given else "ascending"))
    return rows.sort_by(keys) if keys else rows


def only_columns(rows: pa.Table, columns: str | None, source: str) -> pa.Table:
    """Return the rows with the columns that a comma-separated list names, or with all."""
    if columns is None:
        return rows
    names = [name.strip() for name in columns.split(",") if name.strip()]
    for name in names:
        _refuse_unknown(rows, name, source)
    return rows.select(list(dict.fromkeys(names)))


def _refuse_unknown(rows: pa.Table, column: str, source: str) -> None:
    if column not in rows.column_names:
        known = rows.column_names
        raise PipelineError(f"{source}: no column '{column}'.{nearest(column, known)} There are: {', '.join(known)}.")
