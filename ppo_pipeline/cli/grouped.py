"""`--by`: a row per value of some columns, with how many rows have it and what they are like."""

import pyarrow as pa

from ..errors import PipelineError
from .selected import only_columns

ROWS = "rows"


def grouped(rows: pa.Table, by: str, source: str) -> pa.Table:
    """Return for each value of the columns `by`, a comma-separated list, the number of rows and the means of others.

    Means are of columns of numbers, and of truth values the share of true; empty cells are left out. Groups stand in
    the order of their values, the empty one last. Raises PipelineError for a column that is not there, or holds lists.
    """
    keys = only_columns(rows, by, source).column_names
    if not keys:
        raise PipelineError(f"{source}: --by names no column; write one, as --by topic.")
    for name in keys:
        if pa.types.is_nested(rows.schema.field(name).type):
            raise PipelineError(f"{source}: column '{name}' holds a list in each row; group by another one.")
    columns = {name: rows.column(name) for name in keys}
    kinds = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating)
    for field in rows.schema:
        if field.name not in (*keys, ROWS) and any(is_one(field.type) for is_one in kinds):
            columns[field.name] = rows.column(field.name)
    means = [name for name in columns if name not in keys]
    found = pa.table(columns).group_by(keys).aggregate([([], "count_all"), *((name, "mean") for name in means)])
    found = found.select([*keys, "count_all", *(f"{name}_mean" for name in means)])
    return found.rename_columns([*keys, ROWS, *means]).sort_by([(name, "ascending") for name in keys])
