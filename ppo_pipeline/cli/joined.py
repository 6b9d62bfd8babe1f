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
from ..tables.advantages import ADVANTAGES
from ..tables.contract import NAME_KEY, Contract, flat, lengths
from ..tables.evaluation import EVALUATION
from ..tables.prompts import PROMPTS
from ..tables.reference import REFERENCE
from ..tables.rewards import REWARDS
from ..tables.rollouts import ROLLOUTS

CONTRACTS = {c.name: c for c in (PROMPTS, ROLLOUTS, REWARDS, REFERENCE, ADVANTAGES, EVALUATION)}
ADDED = ("prompt", "tokens", "kl")


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


def data_folder(path: Path) -> Path:
    """Return the project's data folder, which holds base/ and prompts.parquet, for a table of a round."""
    parents = path.resolve().parents
    return parents[2] if len(parents) > 2 and parents[1].name == "rounds" else Path("data")


def with_neighbours(contract: Contract, table: pa.Table, path: Path) -> pa.Table:
    """Add to rollouts and evaluation: prompt, tokens, and what the tables in the same folder say of a sample.

    A reward component that is called like another column is shown as `reward.<name>`.
    """
    if contract.name not in ("rollouts", "evaluation"):
        return table
    table = renamed_components(table, len(contract.schema.names))
    table = table.append_column("prompt", pa.array(last_user_messages(table, path), pa.string()))
    table = table.append_column("tokens", pc.list_value_length(table.column("response_ids")))
    if contract.name == "evaluation":
        return table
    reference = neighbour(REFERENCE, path.with_name("reference.parquet"), table)
    if reference is not None:
        table = table.append_column("kl", pa.array(sequence_kl(reference)))
    rewards = neighbour(REWARDS, path.with_name("rewards.parquet"), table)
    if rewards is not None:
        rewards = renamed_components(rewards, len(REWARDS.schema.names))
        for name in rewards.column_names[1:]:
            table = table.append_column(name, rewards.column(name))
    return table


def renamed_components(table: pa.Table, fixed: int) -> pa.Table:
    """Return `table` with those columns after the `fixed` ones renamed that would stand twice after joining."""
    taken = {*ROLLOUTS.schema.names, *ADDED}
    extra = [f"reward.{name}" if name in taken else name for name in table.column_names[fixed:]]
    return table.rename_columns([*table.column_names[:fixed], *extra])


def neighbour(contract: Contract, path: Path, table: pa.Table) -> pa.Table | None:
    """Return the table at `path` where it is there and holds the same samples as `table`."""
    if not path.is_file():
        return None
    found = contract.read(path)
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
    rows = np.repeat(np.arange(reference.num_rows), lengths(reference, "policy_logprobs"))
    return np.bincount(rows, weights=difference, minlength=reference.num_rows)


def json_ready(value: Any) -> Any:
    """Return `value` with what JSON cannot hold replaced: null for NaN and infinities, text for dates and bytes."""
    if isinstance(value, dict):
        return {name: json_ready(item) for name, item in value.items()}
    if isinstance(value, list):
        return [json_ready(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
