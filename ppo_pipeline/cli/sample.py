"""One row in full, for `ppo-pipeline show --sample`: its columns, then its tokens with what each table says."""

from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.compute as pc

from ..tables.advantages import ADVANTAGES
from ..tables.joined import data_folder
from ..tables.reference import REFERENCE
from .literal import literal, token_text
from .printed import print_table

OF_TOKENS = {
    "values": "value",
    "entropy": "entropy",
    "token_rewards": "token_reward",
    "advantages": "advantage",
    "returns": "return",
}


def print_sample(row: pa.Table, path: Path) -> None:
    """Print one row in full, then its tokens with what each table says of them."""
    values = row.to_pylist()[0]
    per_token = "sample_id" in values or "response_ids" in values
    for name, value in values.items():
        if name == "messages":
            for message in value:
                click.echo(literal(f"{message['role']}: {message['content']}").plain)
        elif not (per_token and isinstance(value, list)):
            click.echo(literal(f"{name}: {value}").plain)
    columns = token_columns(row, path)
    if columns:
        tokens = zip(*columns.values(), strict=True)
        cells = ([token_text(c) if isinstance(c, str) else f"{c:+.4f}" for c in token] for token in tokens)
        print_table(list(columns), cells, right=set(columns) - {"token"})


def by_token(row: pa.Table, path: Path) -> dict[str, Any]:
    """Return for JSON {"by_token": [{token: ..., kl: ...}, ...]}; nothing for a table that is not of tokens."""
    columns = token_columns(row, path)
    tokens = zip(*columns.values(), strict=True)
    return {"by_token": [dict(zip(columns, token, strict=True)) for token in tokens]} if columns else {}


def token_columns(row: pa.Table, path: Path) -> dict[str, list[Any]]:
    """Return the per-token columns of a row.

    Of rollouts: text or id, logprobs, KL, value, entropy, token reward, advantage, return, as far as the tables beside
    it have them. Of a table whose rollouts are not there: its own numbers.
    """
    values = row.to_pylist()[0]
    if "response_ids" not in values:
        return {n: v for n, v in values.items() if isinstance(v, list)} if "sample_id" in values else {}
    ids, key = values["response_ids"], row.column(0)[0].as_py()
    columns: dict[str, list[Any]] = {"token": token_texts(ids, data_folder(path) / "base")}
    if "rollout_logprobs" in values:
        columns["logprob"] = values["rollout_logprobs"]
    for schema in (REFERENCE, ADVANTAGES):
        beside = path.with_name(f"{schema.name}.parquet")
        if not beside.is_file() or row.column_names[0] != "sample_id":
            continue
        found = schema.read(beside)
        match = found.filter(pc.equal(found.column("sample_id"), key)).to_pylist()
        lists = {n: v for n, v in match[0].items() if isinstance(v, list)} if match else {}
        if lists and all(len(v) == len(ids) for v in lists.values()):
            if schema is REFERENCE:
                pairs = zip(lists["policy_logprobs"], lists["reference_logprobs"], strict=True)
                columns["kl"] = [policy - reference for policy, reference in pairs]
            columns |= {OF_TOKENS[name]: lists[name] for name in OF_TOKENS if name in lists}
    return columns


def token_texts(ids: list[int], base: Path) -> list[str]:
    """Return each token's text with the base model's tokenizer, or its id where that is not here."""
    if not (base / "tokenizer_config.json").is_file():
        return [str(i) for i in ids]
    from ..models.loading import load_tokenizer

    tokenizer = load_tokenizer(base)
    return [tokenizer.decode([i]) for i in ids]
