"""Two rounds' answers to the same prompts, side by side."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from ..tables.joined import schema_of, with_neighbours

NOT_PAIRED = ("sample_id", "prompt_text", "sample_index", "prompt_id", "prompt", "response_text", "score")


def paired(a: Path, b: Path) -> tuple[pa.Table | None, int]:
    """Return a row per prompt (and sample of it) that both tables have, and how many were left out.

    Columns: prompt_id, prompt, response_a, response_b, score_a, score_b, change (b minus a), then the other columns of
    both that hold one value a row, with _a and _b. The largest change stands first. Left out are those whose prompt
    the model saw with another text. None where one of the files is missing, or lacks scores.
    """
    if not (a.is_file() and b.is_file()):
        return None, 0
    tables = [with_neighbours(schema_of(path), schema_of(path).read(path), path) for path in (a, b)]
    if not all("score" in table.column_names for table in tables):
        return None, 0
    keys = [name for name in ("prompt_id", "sample_index") if name in tables[0].column_names]
    flat = [_flat(table) for table in tables]
    more = [name for name in flat[0] if name in flat[1] and name not in NOT_PAIRED]
    first, second = ({tuple(row[k] for k in keys): row for row in table.to_pylist()} for table in tables)
    both = [(row, second[key]) for key, row in first.items() if key in second]
    same = [(x, y) for x, y in both if x["prompt_text"] == y["prompt_text"]]
    same.sort(key=lambda pair: -abs(pair[1]["score"] - pair[0]["score"]))
    rows = [_row(x, y, keys, more) for x, y in same]
    names = list(_row({}, {}, keys, more))
    return pa.table({name: [row[name] for row in rows] for name in names}), len(both) - len(same)


def _flat(table: pa.Table) -> list[str]:
    return [field.name for field in table.schema if not pa.types.is_nested(field.type)]


def _row(x: dict[str, Any], y: dict[str, Any], keys: list[str], more: list[str]) -> dict[str, Any]:
    row = {name: x.get(name) for name in [*keys, "prompt"]}
    row |= {"response_a": x.get("response_text"), "response_b": y.get("response_text")}
    row |= {"score_a": x.get("score"), "score_b": y.get("score"), "change": y.get("score", 0) - x.get("score", 0)}
    return row | {f"{name}_{side}": of.get(name) for name in more for side, of in (("a", x), ("b", y))}
