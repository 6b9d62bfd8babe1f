"""The tables that `ppo-pipeline show` reads: a table, and what lies beside it."""

import math
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import PipelineError
from .advantages import ADVANTAGES
from .evaluation import EVALUATION, EVALUATION_SAMPLES
from .preferences import PREFERENCES
from .prompt_scores import PROMPT_SCORES
from .prompts import PROMPTS, further_columns
from .reference import REFERENCE
from .rewards import REWARDS
from .rollouts import ROLLOUTS
from .schema import NAME_KEY, TableSchema, flat, lengths

ALL = (
    PROMPTS, PREFERENCES, ROLLOUTS, REWARDS, REFERENCE, ADVANTAGES, EVALUATION, EVALUATION_SAMPLES, PROMPT_SCORES,
)  # fmt: skip
SCHEMAS = {c.name: c for c in ALL}
OF_SAMPLES = ("rollouts", "reference", "advantages", "rewards")  # one row per sample, in <name>.parquet
OF_ROLLOUTS = ("prompt_id", "response_text", "finish_reason")
ADDED = ("prompt", "tokens", "kl", "value", "entropy", "advantage")


def schema_of(path: Path) -> TableSchema:
    """Return the schema that the file's metadata names."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file; `dvc repro` makes it, `dvc pull` fetches it.") from None
    except (pa.ArrowException, OSError) as error:
        raise PipelineError(f"{path}: not a readable Parquet file: {error}") from None
    name = metadata.get(NAME_KEY, b"").decode()
    if name not in SCHEMAS:
        raise PipelineError(f"{path}: not a table of this pipeline (they are: {', '.join(SCHEMAS)}).")
    return SCHEMAS[name]


def data_folder(path: Path) -> Path:
    """Return the project's data folder, which holds base/ and prompts.parquet, for a table of a round."""
    parents = path.resolve().parents
    return parents[2] if len(parents) > 2 and parents[1].name == "rounds" else Path("data")


def with_neighbours(schema: TableSchema, table: pa.Table, path: Path) -> pa.Table:
    """Add the prompt, the number of tokens, and what the tables in the same folder say of a sample.

    kl is the sum over a response's tokens; value, entropy and advantage are means. A reward component that is called
    like another column is shown as `reward.<name>`. prompts.parquet has no neighbours.
    """
    if schema in (EVALUATION, EVALUATION_SAMPLES):
        table = renamed_components(table, len(schema.arrow.names))
        return with_columns(table, texts(table, path))
    if schema.name not in OF_SAMPLES:
        return table
    found = {
        name: table if name == schema.name else neighbour(SCHEMAS[name], path.with_name(f"{name}.parquet"), table)
        for name in OF_SAMPLES
    }
    table = renamed_components(table, len(REWARDS.arrow.names)) if schema is REWARDS else table
    if schema is ADVANTAGES and table.column("correct").null_count:  # rewards.parquet may know
        table = table.drop_columns(["correct"])
    added: dict[str, Any] = {}
    if (rollouts := found["rollouts"]) is not None:
        added |= {name: rollouts.column(name) for name in OF_ROLLOUTS} | texts(rollouts, path)
    if (reference := found["reference"]) is not None:
        added["kl"] = sequence_kl(reference)
        added |= means(reference, {"values": "value", "entropy": "entropy"})
    if found["advantages"] is not None:
        added |= means(found["advantages"], {"advantages": "advantage"})
    if (rewards := found["rewards"]) is not None:
        rewards = renamed_components(rewards, len(REWARDS.arrow.names))
        added |= {name: rewards.column(name) for name in rewards.column_names[1:]}
    return with_columns(table, added)


def with_prompts(schema: TableSchema, table: pa.Table, path: Path) -> pa.Table:
    """Add the prompts' own columns (topics, answers) to rows that say their prompt, as they are in prompts.parquet now.

    One that is called like another column is `prompt.<name>`. A row whose prompt is there no more has none of them.
    """
    source = data_folder(path) / "prompts.parquet"
    if schema in (PROMPTS, PREFERENCES) or "prompt_id" not in table.column_names or not source.is_file():
        return table
    prompts = PROMPTS.read(source)
    places = pc.index_in(table.column("prompt_id"), value_set=prompts.column("prompt_id").combine_chunks())
    own = prompts.select(further_columns(prompts)).take(places)
    taken = {name.lower() for name in table.column_names}  # a condition of --where knows no capitals
    names = {name: f"prompt.{name}" if name.lower() in taken else name for name in own.column_names}
    return with_columns(table, {new: own.column(name) for name, new in names.items()})


def with_columns(table: pa.Table, columns: dict[str, Any]) -> pa.Table:
    """Return `table` with those of `columns` behind its own that it lacks."""
    for name, column in columns.items():
        if name not in table.column_names:
            table = table.append_column(name, column if isinstance(column, pa.ChunkedArray) else pa.array(column))
    return table


def texts(table: pa.Table, path: Path) -> dict[str, Any]:
    """Return for each row what the user said, and the number of response tokens."""
    prompts = pa.array(last_user_messages(table, path), pa.string())
    return {"prompt": prompts, "tokens": pc.list_value_length(table.column("response_ids"))}


def renamed_components(table: pa.Table, fixed: int) -> pa.Table:
    """Return `table` with those columns after the `fixed` ones renamed that would stand twice after joining."""
    taken = {name for of in OF_SAMPLES for name in SCHEMAS[of].arrow.names} | {*ADDED}
    extra = [f"reward.{name}" if name in taken else name for name in table.column_names[fixed:]]
    return table.rename_columns([*table.column_names[:fixed], *extra])


def neighbour(schema: TableSchema, path: Path, table: pa.Table) -> pa.Table | None:
    """Return the table at `path` where it is there and holds the same samples as `table`."""
    if not path.is_file():
        return None
    found = schema.read(path)
    if found.column("sample_id") == table.column("sample_id"):
        return found
    click.echo(f"{path}: left out: it is of other samples; `dvc repro` renews it.", err=True)
    return None


def last_user_messages(table: pa.Table, path: Path) -> list[str]:
    """Return what the user last said in each row's prompt; the whole rendered prompt where that is unknown."""
    shown: list[str] = table.column("prompt_text").to_pylist()
    source = data_folder(path) / "prompts.parquet"
    if not source.is_file():
        return shown
    prompts = PROMPTS.read(source, ["messages"])
    messages = dict(zip(*(column.to_pylist() for column in prompts.columns), strict=True))
    for row, prompt_id in enumerate(table.column("prompt_id").to_pylist()):
        said = [m["content"] for m in messages.get(prompt_id, []) if m["role"] == "user"]
        # The prompts may have changed since these samples were drawn: take only text that the model saw.
        if said and said[-1].strip() in shown[row]:
            shown[row] = said[-1].strip()
    return shown


def sequence_kl(reference: pa.Table) -> np.ndarray:
    """Return each sample's KL estimate: the sum of policy minus reference logprobs, in nats (N,)."""
    difference = flat(reference, "policy_logprobs").astype(np.float64) - flat(reference, "reference_logprobs")
    return _sums(reference, "policy_logprobs", difference)


def means(table: pa.Table, names: dict[str, str]) -> dict[str, pa.Array]:
    """Return the mean of each row's list for those list columns that are there and hold numbers, by their new name.

    The mean of no tokens is null.
    """
    found = {}
    for name, new in names.items():
        if name in table.column_names and table.column(name).null_count == 0:
            counts, sums = lengths(table, name), _sums(table, name, flat(table, name).astype(np.float64))
            found[new] = pa.array(sums / np.maximum(counts, 1), mask=counts == 0)
    return found


def _sums(table: pa.Table, name: str, values: np.ndarray) -> np.ndarray:
    rows = np.repeat(np.arange(table.num_rows), lengths(table, name))
    return np.bincount(rows, weights=values, minlength=table.num_rows)


def json_ready(value: Any) -> Any:
    """Return `value` with what JSON cannot hold replaced: null for NaN and infinities, text for dates and bytes."""
    if isinstance(value, dict):
        return {name: json_ready(item) for name, item in value.items()}
    if isinstance(value, list):
        return [json_ready(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
