"""The numbers of each response token: advantage, KL, value, logprob, entropy, reward, return."""

from typing import Any

import numpy as np
import pyarrow as pa

from ..tables.schema import flat
from .round_data import RoundData
from .token_texts import TokenTexts

UNIT = 10_000  # numbers are stored as whole ten-thousandths, the digits that the page shows
SCALE_QUANTILE = 0.98  # beyond it a token has the full colour


def numbers_of(r: RoundData) -> dict[str, np.ndarray]:
    """Return for each known quantity its number for every token of the shown samples, concatenated (T,)."""
    found = {"logprob": flat(r.rollouts, "rollout_logprobs")}
    if r.reference is not None:
        policy = flat(r.reference, "policy_logprobs").astype(np.float64)
        found |= {"logprob": policy, "kl": policy - flat(r.reference, "reference_logprobs")}
        found |= _present(r.reference, {"values": "value", "entropy": "entropy"})
    if r.advantages is not None:
        found |= _present(r.advantages, {"advantages": "advantage", "returns": "return", "token_rewards": "reward"})
    return found


def _present(table: pa.Table, names: dict[str, str]) -> dict[str, np.ndarray]:
    """Return the columns of `names` that the table has and that are not empty, under their new names."""
    there = [name for name in names if name in table.column_names and not table.column(name).null_count]
    return {names[name]: flat(table, name) for name in there}


def token_block(r: RoundData, texts: TokenTexts | None) -> dict[str, Any]:
    """Return a round's tokens: per sample the pieces of text, how many tokens each is of, and the special ones.

    `numbers` has per quantity and sample a list of whole ten-thousandths. counts is null where each piece is a token.
    """
    block: dict[str, Any] = {"pieces": [], "counts": [], "special": [], "numbers": {}}
    sizes = []
    for ids in r.rollouts.column("response_ids").to_pylist():
        pieces, counts, special = texts.pieces(ids) if texts else ([f"[{i}]" for i in ids], [1] * len(ids), [])
        block["pieces"].append(pieces)
        block["counts"].append(counts if len(counts) < len(ids) else None)
        block["special"].append(special)
        sizes.append(len(ids))
    ends = np.cumsum(sizes).tolist()
    for name, numbers in numbers_of(r).items():
        whole = np.rint(numbers.astype(np.float64) * UNIT).astype(np.int64).tolist()
        block["numbers"][name] = [whole[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    return block


def scales(rounds: list[RoundData]) -> dict[str, float]:
    """Return for each quantity the size at which its colour is full, one for the whole run so that samples compare."""
    sizes: dict[str, list[np.ndarray]] = {}
    for r in rounds:
        for name, numbers in numbers_of(r).items():
            sizes.setdefault(name, []).append(np.abs(numbers).astype(np.float64))
    found = {}
    for name, parts in sizes.items():
        every = np.concatenate(parts)
        full = float(np.quantile(every, SCALE_QUANTILE)) if len(every) else 0.0
        found[name] = float(f"{full or (every.max() if len(every) else 0.0) or 1.0:.3g}")
    return found
