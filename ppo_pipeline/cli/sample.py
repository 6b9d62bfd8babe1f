"""One row in full, for `ppo-pipeline show --sample`: its columns, then its tokens with what each table says."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..tables.advantages import ADVANTAGES
from ..tables.reference import REFERENCE
from .joined import data_folder
from .literal import literal, token_text


def print_sample(row: pa.Table, path: Path) -> None:
    """Print one row in full, then its tokens with what each table says of them."""
    from rich.console import Console
    from rich.table import Table

    console, values = Console(), row.to_pylist()[0]
    per_token = "sample_id" in values or "response_ids" in values
    for name, value in values.items():
        if name == "messages":
            for message in value:
                console.print(literal(f"{message['role']}: {message['content']}"))
        elif not (per_token and isinstance(value, list)):
            console.print(literal(f"{name}: {value}"))
    columns = token_columns(row, path)
    if not columns:
        return
    table = Table()
    for name in columns:
        table.add_column(name, justify="left" if name == "token" else "right")
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*(literal(c if isinstance(c, str) else f"{c:+.4f}") for c in cells))
    console.print(table)


def token_columns(row: pa.Table, path: Path) -> dict[str, list[Any]]:
    """Return the per-token columns of a row.

    Of rollouts: text or id, logprobs, KL, value, advantage, return. Of a table whose rollouts are not there:
    its own numbers.
    """
    values = row.to_pylist()[0]
    if "response_ids" not in values:
        return {n: v for n, v in values.items() if isinstance(v, list)} if "sample_id" in values else {}
    ids, key = values["response_ids"], row.column(0)[0].as_py()
    columns: dict[str, list[Any]] = {"token": token_texts(ids, data_folder(path) / "base")}
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
            columns |= {"kl": [p - r for p, r in pairs]}
            columns |= {"value": entry["values"]} if entry["values"] is not None else {}
        else:
            columns |= {n[:-1]: entry[n] for n in ("token_rewards", "advantages", "returns") if entry[n] is not None}
    return columns


def token_texts(ids: list[int], base: Path) -> list[str]:
    """Return each token's text with the base model's tokenizer, or its id where that is not here."""
    if not (base / "tokenizer_config.json").is_file():
        return [str(i) for i in ids]
    from ..models.loading import load_tokenizer

    tokenizer = load_tokenizer(base)
    return [token_text(tokenizer.decode([i])) for i in ids]
