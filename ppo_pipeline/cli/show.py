"""`ppo-pipeline show`: rows of a table in the terminal, or in a pipe."""

import re
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa

from ..errors import PipelineError, nearest
from ..project.paths import Paths
from ..settings.params import load_params
from ..tables.joined import OF_SAMPLES, schema_of, with_neighbours, with_prompts
from ..tables.prompts import PROMPTS, further_columns
from ..tables.schema import TableSchema
from .grouped import grouped
from .printed import json_text, note, print_table
from .round_named import BEST, round_named
from .selected import in_order, only_columns
from .where import matching

COLUMNS = {
    "prompts": ["prompt_id", "split", "messages"],
    "preferences": ["pair_id", "split", "messages", "chosen", "rejected", "margin"],
    "rollouts": ["sample_id", "prompt", "response_text", "score", "kl", "tokens", "finish_reason"],
    "rewards": ["sample_id", "prompt", "response_text", "score"],
    "reference": ["sample_id", "response_text", "tokens", "kl", "value", "entropy", "bootstrap_value"],
    "advantages": ["sample_id", "response_text", "score", "kl", "token_rewards", "advantages", "returns"],
    "evaluation": ["prompt_id", "prompt", "response_text", "score", "tokens", "finish_reason"],
    "evaluation_samples": ["sample_id", "prompt", "response_text", "vote", "score", "tokens", "finish_reason"],
}
OF_ROUND = ("rollouts", "rewards", "reference", "advantages", "eval", "eval_samples")


@click.command()
@click.argument("what", metavar="PATH|ROUND|prompts")
@click.argument("table", metavar="[TABLE]", required=False)
@click.option("--where", metavar="CONDITION", help="Only rows as \"score < 0 and finish_reason = 'length'\".")
@click.option("--sort", multiple=True, metavar="[-]COLUMN", help="Column to sort by; with a minus from high to low.")
@click.option("--descending", is_flag=True, hidden=True, help="The same as a minus before each --sort.")
@click.option(
    "--by", metavar="A,B,...", help="A row per value of these columns: how many rows, and the means of others."
)
@click.option("--limit", default=10, show_default=True, type=click.IntRange(min=1), help="Rows shown.")
@click.option("--columns", metavar="A,B,...", help="Columns shown; the line under the table names all there are.")
@click.option("--sample", metavar="ID", help="One row in full, token by token where its tables lie beside it.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines: every row and column unless told otherwise.")
@click.pass_context
def show(
    ctx: click.Context, what: str, table: str | None, where: str | None, sort: tuple[str, ...], descending: bool,
    by: str | None, limit: int, columns: str | None, sample: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Print rows of a table: a Parquet file, `prompts`, or of a ROUND the TABLE rollouts (or rewards, reference,
    advantages, eval, eval_samples). Beside a table's own columns stand those that other tables have of its samples, and
    those of their prompts: `show r004 eval --by topic` has the mean score of each topic."""
    if by is not None and sample is not None:
        raise click.UsageError("--by and --sample do not go together: a sample is one row.")
    path = located(what, table)
    schema = schema_of(path)
    rollouts = path.with_name("rollouts.parquet")
    of_tokens = schema.name in OF_SAMPLES and schema.name != "rollouts"
    if sample is not None and not as_json and of_tokens and rollouts.is_file():
        path, schema = rollouts, schema_of(rollouts)  # a sample in full is its text, whichever table was named
    own = schema.read(path)
    rows = with_prompts(schema, with_neighbours(schema, own, path), path)
    if sample is not None:
        rows = one(rows, sample, path)
    if where is not None:
        rows = matching(rows, where)
    if by is not None:
        rows = grouped(rows, by, str(path))
    rows = in_order(rows, sort, str(path), descending)
    chosen = only_columns(rows, columns, str(path))
    if as_json:
        from .sample import by_token

        given = ctx.get_parameter_source("limit") is not click.core.ParameterSource.DEFAULT
        extra = by_token(rows, path) if sample is not None and columns is None and rows.num_rows else {}
        for row in (chosen.slice(0, limit) if given else chosen).to_pylist():
            click.echo(json_text(row | extra))
    elif sample is not None and columns is None and rows.num_rows:
        from .sample import print_sample

        print_sample(rows, path)
    else:
        default = default_columns(schema, own, rows) if by is None else rows.column_names
        print_rows(chosen if columns else rows.select(default), limit)
        note(f"{min(limit, rows.num_rows)} of {rows.num_rows} rows; columns: {', '.join(rows.column_names)}")


def default_columns(schema: TableSchema, own: pa.Table, rows: pa.Table) -> list[str]:
    """Return the columns that are shown where none are asked for: of rewards the components too, of prompts all."""
    default = [c for c in COLUMNS[schema.name] if c in rows.column_names]
    if schema.name == "rewards":
        default += rows.column_names[2 : len(own.column_names)]
    return default + (further_columns(own) if schema is PROMPTS else [])


def located(what: str, table: str | None) -> Path:
    """Return the file that is meant: a path, `prompts`, or a round and one of its tables."""
    if table is None and what == "prompts":
        return Paths().prompts
    if table is None and (what.endswith(".parquet") or Path(what).name != what or Path(what).is_file()):
        return Path(what)
    if what.partition(":")[0] == BEST and not Paths(what).folder.is_dir():
        what = round_named(load_params(), what)
    folder = Paths(what).folder
    if re.fullmatch(r"[\w-]+", what) is None or not folder.is_dir():
        known = ["prompts", *sorted(path.name for path in folder.parent.glob("*"))]
        raise PipelineError(f"{what}: neither a Parquet file nor a round in {folder.parent}.{nearest(what, known)}")
    if table is not None and table not in OF_ROUND:
        raise PipelineError(f"no table '{table}'.{nearest(table, list(OF_ROUND))} They are: {', '.join(OF_ROUND)}.")
    first = "rollouts" if (folder / "rollouts.parquet").is_file() else "eval"
    return folder / f"{table or first}.parquet"


def one(rows: pa.Table, sample: str, path: Path) -> pa.Table:
    """Return the row whose key is `sample`."""
    keys = rows.column(0).to_pylist()
    if sample not in keys:
        raise PipelineError(f"{path}: no {rows.column_names[0]} '{sample}'.{nearest(sample, keys)}")
    return rows.slice(keys.index(sample), 1)


def print_rows(rows: pa.Table, limit: int) -> None:
    """Print the first rows; token lists are shown by their length and mean."""
    left = [f.name for f in rows.schema if pa.types.is_string(f.type) or f.name == "messages"]
    cells = ([cell(*item) for item in row.items()] for row in rows.slice(0, limit).to_pylist())
    right = set(rows.column_names) - set(left)
    print_table(rows.column_names, cells, right=right, lines="prompt" in rows.column_names)


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
