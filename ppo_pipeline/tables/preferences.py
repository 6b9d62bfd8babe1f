"""data/preferences/<name>.parquet: pairs of answers to a prompt, of which one was preferred."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .prompts import MESSAGE, SPLITS
from .schema import TableError, TableSchema, field


def _check(table: pa.Table, source: str) -> None:
    """Raise TableError for an unknown split, a prompt in both, a pair of equal answers, a margin below 0."""
    splits: dict[str, str] = {}
    columns = (table.column(name).to_pylist() for name in ("pair_id", "prompt_id", "split", "chosen", "rejected"))
    for pair, prompt, split, chosen, rejected in zip(*columns, strict=True):
        if split not in SPLITS:
            raise TableError(f"{source}: pair '{pair}': split '{split}' is neither 'train' nor 'heldout'.")
        if splits.setdefault(prompt, split) != split:
            raise TableError(f"{source}: pair '{pair}': its prompt '{prompt}' stands in both splits.")
        if chosen == rejected:
            raise TableError(f"{source}: pair '{pair}': equal answers.")
    below = pc.less(table.column("margin"), 0)
    if pc.any(below, min_count=0).as_py():
        raise TableError(f"{source}: column 'margin', row {pc.index(below, True).as_py()}: below 0.")


PREFERENCES = TableSchema(
    name="preferences",
    version=1,
    arrow=pa.schema(
        [
            field("pair_id", pa.string(), "Unique name of the pair"),
            field("prompt_id", pa.string(), "The first 12 digits of the hash of `messages`, as in prompts.parquet"),
            field("messages", pa.list_(MESSAGE), "The conversation that both answers go on with"),
            field("chosen", pa.string(), "The answer that was preferred"),
            field("rejected", pa.string(), "The other one"),
            field("margin", pa.float64(), "By how much it was preferred, 0 or more; empty where nobody says", True),
            field("split", pa.string(), "train or heldout; no prompt is in both"),
        ]
    ),
    gaps=("margin",),
    extra=True,
    finite_extra=False,  # as in prompts.parquet
    check_more=_check,
)


def preference_metrics(table: pa.Table) -> dict[str, Any]:
    """Return what a table of pairs is like, by metric: counts, mean lengths in characters, shares.

    chosen_longer, rejected_longer: shares of the pairs in which that answer has more characters; where the chosen ones
    mostly are the longer ones, a reward model learns length. repeated: pairs that an earlier row has, too;
    contradicted: those that some row has the other way round.
    """
    if not table.num_rows:
        return {}
    columns = [table.column(name).to_pylist() for name in ("prompt_id", "chosen", "rejected")]
    pairs = list(zip(*columns, strict=True))
    known = set(pairs)
    chosen, rejected = (np.array([len(text) for text in texts], np.float64) for texts in columns[1:])
    splits = table.column("split").to_pylist()
    numbers = {
        "pairs": len(pairs),
        "train": splits.count("train"),
        "heldout": splits.count("heldout"),
        "prompts": len(set(columns[0])),
        "with_margin": len(pairs) - table.column("margin").null_count,
        "repeated": len(pairs) - len(known),
        "contradicted": sum((prompt, second, first) in known for prompt, first, second in pairs),
        "chosen_characters": float(chosen.mean()),
        "rejected_characters": float(rejected.mean()),
        "chosen_longer": float((chosen > rejected).mean()),
        "rejected_longer": float((chosen < rejected).mean()),
    }
    return {f"preferences/{name}": number for name, number in numbers.items()}
