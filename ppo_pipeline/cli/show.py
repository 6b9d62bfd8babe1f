"""`ppo-pipeline show`: samples of a table in the terminal."""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa

from ..errors import PipelineError, nearest
from ..terminal import json_spelled_out
from .joined import contract_of, json_ready, with_neighbours
from .literal import literal

COLUMNS = {
    "prompts": ["prompt_id", "split", "messages", "expected"],
    "rollouts": ["sample_id", "prompt", "response_text", "score", "kl", "tokens", "finish_reason"],
    "evaluation": ["prompt_id", "prompt", "response_text", "score", "tokens", "finish_reason"],
}


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--limit", default=10, show_default=True, type=click.IntRange(min=1), help="Rows shown.")
@click.option("--sort", help="Column to sort by.")
@click.option("--descending", is_flag=True, help="Sort from high to low.")
@click.option("--sample", help="Show one row in full, by its id, token by token where its tables lie beside it.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines, every row unless --limit is given.")
@click.pass_context
def show(
    ctx: click.Context, path: Path, limit: int, sort: str | None, descending: bool, sample: str | None, as_json: bool
) -> None:
    """Print the Parquet table PATH: rollouts come with the score and KL that lie beside them."""
    contract = contract_of(path)
    rollouts = path.with_name("rollouts.parquet")
    of_tokens = contract.name in ("rewards", "reference", "advantages")
    if sample is not None and not as_json and of_tokens and rollouts.is_file():
        path, contract = rollouts, contract_of(rollouts)  # a sample in full is its text, whichever table was named
    rows = with_neighbours(contract, contract.read(path), path)
    if sample is not None:
        rows = one(rows, sample, path)
    if sort is not None:
        rows = in_order(rows, sort, descending, path)
    if as_json:
        given = ctx.get_parameter_source("limit") is not click.core.ParameterSource.DEFAULT
        for row in (rows.slice(0, limit) if given else rows).to_pylist():
            click.echo(json_spelled_out(json.dumps(json_ready(row), ensure_ascii=False, allow_nan=False)))
    elif sample is not None:
        from .sample import print_sample

        print_sample(rows, path)
    else:
        print_rows(rows, contract.name, limit)


def one(rows: pa.Table, sample: str, path: Path) -> pa.Table:
    """Return the row whose key is `sample`."""
    keys = rows.column(0).to_pylist()
    if sample not in keys:
        raise PipelineError(f"{path}: no {rows.column_names[0]} '{sample}'.{nearest(sample, keys)}")
    return rows.slice(keys.index(sample), 1)


def in_order(rows: pa.Table, column: str, descending: bool, path: Path) -> pa.Table:
    """Return the rows sorted by `column`, which must hold one value in each row."""
    if column not in rows.column_names:
        raise PipelineError(f"{path}: no column '{column}'.{nearest(column, rows.column_names)}")
    if pa.types.is_nested(rows.schema.field(column).type):
        flat = [field.name for field in rows.schema if not pa.types.is_nested(field.type)]
        raise PipelineError(
            f"{path}: column '{column}' holds a list in each row and has no order; sort by one of {', '.join(flat)}."
        )
    return rows.sort_by([(column, "descending" if descending else "ascending")])


def print_rows(rows: pa.Table, name: str, limit: int) -> None:
    """Print the first rows; token lists are shown by their length and mean."""
    from rich.console import Console
    from rich.table import Table

    columns = [c for c in COLUMNS.get(name, rows.column_names) if c in rows.column_names]
    shown = Table(show_lines=name in ("rollouts", "evaluation"))
    for column in columns:
        numeric = not pa.types.is_string(rows.schema.field(column).type)
        shown.add_column(literal(column), justify="right" if numeric and column != "messages" else "left")
    for row in rows.slice(0, limit).select(columns).to_pylist():
        shown.add_row(*(literal(cell(column, row[column])) for column in columns))
    console = Console()
    console.print(shown)
    names = ", ".join(rows.column_names)
    console.print(literal(f"{min(limit, rows.num_rows)} of {rows.num_rows} rows; columns: {names}"))


def cell(column: str, value: Any) -> str:
    """Return a value as one table cell."""
    if column == "messages":
        return " / ".join(m["content"] for m in value)
    if isinstance(value, float):
        return f"{value:+.3f}"
    if isinstance(value, list):
        mean = f", mean {np.mean(value):+.3f}" if value and isinstance(value[0], float) else ""
        return f"{len(value)} items{mean}"
    return "" if value is None else str(value)
