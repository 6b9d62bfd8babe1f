"""`ppo-pipeline show`: samples of a table in the terminal."""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import PipelineError, nearest
from ..tables.advantages import ADVANTAGES
from ..tables.contract import NAME_KEY, Contract, flat, lengths
from ..tables.evaluation import EVALUATION
from ..tables.prompts import PROMPTS
from ..tables.reference import REFERENCE
from ..tables.rewards import REWARDS
from ..tables.rollouts import ROLLOUTS

CONTRACTS = {c.name: c for c in (PROMPTS, ROLLOUTS, REWARDS, REFERENCE, ADVANTAGES, EVALUATION)}


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
    rows = with_neighbours(contract, contract.read(path), path)
    if sample is not None:
        rows = one(rows, sample, path)
    if sort is not None:
        if sort not in rows.column_names:
            raise PipelineError(f"{path}: no column '{sort}'.{nearest(sort, rows.column_names)}")
        rows = rows.sort_by([(sort, "descending" if descending else "ascending")])
    if as_json:
        given = ctx.get_parameter_source("limit") is not click.core.ParameterSource.DEFAULT
        for row in (rows.slice(0, limit) if given else rows).to_pylist():
            click.echo(json.dumps(row, ensure_ascii=False))
        return
    if sample is not None:
        print_sample(rows, path)
    else:
        print_rows(rows, contract.name, limit)


def contract_of(path: Path) -> Contract:
    """Return the contract that the file's metadata names."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file; `dvc repro` makes it, `dvc pull` fetches it.") from None
    except (pa.ArrowException, OSError) as error:
        raise PipelineError(f"{path}: not a readable Parquet file: {error}") from None
    name = metadata.get(NAME_KEY, b"").decode()
    if name not in CONTRACTS:
        raise PipelineError(f"{path}: not a table of this pipeline (they are: {', '.join(CONTRACTS)}).")
    return CONTRACTS[name]


def with_neighbours(contract: Contract, table: pa.Table, path: Path) -> pa.Table:
    """Add to rollouts: tokens, and the score, its components and the KL of the tables in the same folder."""
    if contract.name == "evaluation":
        return table.append_column("tokens", pc.list_value_length(table.column("response_ids")))
    if contract.name != "rollouts":
        return table
    table = table.append_column("tokens", pc.list_value_length(table.column("response_ids")))
    rewards, reference = path.with_name("rewards.parquet"), path.with_name("reference.parquet")
    for other in (rewards, reference):
        if not other.is_file():
            continue
        found = (REWARDS if other is rewards else REFERENCE).read(other)
        if found.column("sample_id") != table.column("sample_id"):
            continue  # of another rollout: an interrupted rerun
        if other is rewards:
            for name in found.column_names[1:]:
                table = table.append_column(name, found.column(name))
        else:
            table = table.append_column("kl", pa.array(sequence_kl(found)))
    return table


def sequence_kl(reference: pa.Table) -> np.ndarray:
    """Return each sample's KL estimate: the sum of policy minus reference logprobs, in nats (N,)."""
    difference = flat(reference, "policy_logprobs").astype(np.float64) - flat(reference, "reference_logprobs")
    counts = lengths(reference, "policy_logprobs")
    return np.add.reduceat(difference, np.cumsum(counts) - counts)


def one(rows: pa.Table, sample: str, path: Path) -> pa.Table:
    """Return the row whose key is `sample`."""
    keys = rows.column(0).to_pylist()
    if sample not in keys:
        raise PipelineError(f"{path}: no {rows.column_names[0]} '{sample}'.{nearest(sample, keys)}")
    return rows.slice(keys.index(sample), 1)


COLUMNS = {
    "prompts": ["prompt_id", "split", "messages", "expected"],
    "rollouts": ["sample_id", "prompt_text", "response_text", "score", "kl", "tokens", "finish_reason"],
    "evaluation": ["prompt_id", "prompt_text", "response_text", "score", "tokens", "finish_reason"],
}


def print_rows(rows: pa.Table, name: str, limit: int) -> None:
    """Print the first rows; token lists are shown by their length and mean."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns = [c for c in COLUMNS.get(name, rows.column_names) if c in rows.column_names]
    shown = Table(show_lines=name in ("rollouts", "evaluation"))
    for column in columns:
        numeric = not pa.types.is_string(rows.schema.field(column).type)
        shown.add_column(column, justify="right" if numeric and column != "messages" else "left")
    for row in rows.slice(0, limit).select(columns).to_pylist():
        shown.add_row(*(Text(cell(column, row[column])) for column in columns))
    console = Console()
    console.print(shown)
    console.print(f"{min(limit, rows.num_rows)} of {rows.num_rows} rows; columns: {', '.join(rows.column_names)}")


def cell(column: str, value: Any) -> str:
    """Return a value as one table cell."""
    if column == "prompt_text":
        return last_user_text(value)
    if column == "messages":
        return " / ".join(m["content"] for m in value)
    if isinstance(value, float):
        return f"{value:+.3f}"
    if isinstance(value, list):
        mean = f", mean {np.mean(value):+.3f}" if value and isinstance(value[0], float) else ""
        return f"{len(value)} items{mean}"
    return "" if value is None else str(value)


def last_user_text(prompt_text: str) -> str:
    """Return the end of a rendered prompt that a person wants to see: the text between the last two markers."""
    parts = [part.strip() for part in prompt_text.replace("<|im_start|>", "<|im_end|>").split("<|im_end|>")]
    parts = [part.removeprefix("user\n").strip() for part in parts if part and part not in ("assistant", "user")]
    return parts[-1] if parts else prompt_text


def print_sample(row: pa.Table, path: Path) -> None:
    """Print one row in full, then its tokens with what each table says of them."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, values = Console(), row.to_pylist()[0]
    for name, value in values.items():
        if not isinstance(value, list) or name == "messages":
            console.print(Text(f"{name}: {value}"))
    columns = token_columns(row, path)
    if not columns:
        return
    table = Table()
    for name in columns:
        table.add_column(name, justify="left" if name == "token" else "right")
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*(Text(c if isinstance(c, str) else f"{c:+.4f}") for c in cells))
    console.print(table)


def token_columns(row: pa.Table, path: Path) -> dict[str, list[Any]]:
    """Return per-token columns of a rollouts row: text or id, logprobs, KL, value, advantage, return."""
    if "response_ids" not in row.column_names:
        return {}
    values = row.to_pylist()[0]
    ids, key = values["response_ids"], row.column(0)[0].as_py()
    columns: dict[str, list[Any]] = {"token": token_texts(ids)}
    if "rollout_logprobs" in values:
        columns["logprob"] = values["rollout_logprobs"]
    for contract, file in ((REFERENCE, "reference.parquet"), (ADVANTAGES, "advantages.parquet")):
        if not path.with_name(file).is_file() or row.column_names[0] != "sample_id":
            continue
        found = contract.read(path.with_name(file))
        match = found.filter(pc.equal(found.column("sample_id"), key)).to_pylist()
        if not match or len(next(v for v in match[0].values() if isinstance(v, list))) != len(ids):
            continue
        entry = match[0]
        if contract is REFERENCE:
            pairs = zip(entry["policy_logprobs"], entry["reference_logprobs"], strict=True)
            columns |= {"kl": [p - r for p, r in pairs], "value": entry["values"]}
        else:
            columns |= {n[:-1]: entry[n] for n in ("token_rewards", "advantages", "returns")}
    return columns


def token_texts(ids: list[int]) -> list[str]:
    """Return each token's text with the base model's tokenizer, or its id where that is not here."""
    base = Path("data/base")
    if not (base / "tokenizer_config.json").is_file():
        return [str(i) for i in ids]
    from ..models.loading import load_tokenizer

    tokenizer = load_tokenizer(base)
    return [repr(tokenizer.decode([i]))[1:-1] for i in ids]
