"""Read preference data sets into a table of pairs."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import PipelineError
from ..settings.preference_sections import Preferences
from .files import prompt_files, rows_of
from .preference_rows import is_absent, is_tie, pair_of
from .sources import digest_of, given_split, name_of, prompts_table

OWN = ("pair_id", "prompt_id", "prompt", "messages", "system", "chosen", "rejected", "margin", "split", "tie")
TOLD = 10  # bad rows that are told by name


def read_preferences(settings: Preferences, name: str, continue_final_message: bool) -> tuple[pa.Table, int]:
    """Return the pairs of the entry `name`, in the order of its files and rows, and how many rows are ties.

    `pair_id` is the row's own, else a hash of the pair; the second row of an id gets -2 behind it. The split is the
    row's own, else by a hash of the prompt. Further columns are kept, `prompt_id` as `source_prompt_id`. Raises
    PipelineError that names the file and number of each bad row, and both of a prompt that stands in both splits.
    """
    rows: list[dict[str, Any]] = []
    bad: list[str] = []
    ties = 0
    ids: Counter[str] = Counter()
    splits: dict[str, tuple[str, str]] = {}
    for path in prompt_files(Path(settings.source), f"preferences.{name}.source"):
        for number, source in rows_of(path):
            place = f"{path}, row {number}"
            try:
                if is_tie(source, place):
                    ties += 1
                    continue
                row, digest = _row(source, settings.heldout_fraction, continue_final_message, place)
                split, first = splits.setdefault(digest, (row["split"], place))
                if split != row["split"]:
                    raise PipelineError(
                        f"{place}: split '{row['split']}', and '{split}' for the same prompt in {first}."
                    )
            except PipelineError as error:
                bad.append(error.message)
                continue
            ids[row["pair_id"]] += 1
            again = ids[row["pair_id"]]
            rows.append(row | ({"pair_id": f"{row['pair_id']}-{again}"} if again > 1 else {}))
    if bad:
        more = f"\n{len(bad) - TOLD} more such rows." if len(bad) > TOLD else ""
        raise PipelineError("\n".join(bad[:TOLD]) + more)
    if all(row["split"] != "train" for row in rows):
        raise PipelineError(f"{settings.source}: no pair has the split 'train'.")
    return prompts_table(rows, settings.source), ties


def _row(source: dict[str, Any], heldout: float, continue_final: bool, place: str) -> tuple[dict[str, Any], str]:
    """Return a row of the table, and the hash of its prompt."""
    pair = pair_of(source, continue_final, place)
    digest = digest_of(pair.messages, place)
    # Other digits than those that split a prompt set: the prompts of rollouts are all from one side of that split.
    by_hash = "heldout" if int(digest[8:16], 16) / 2**32 < heldout else "train"
    row: dict[str, Any] = {
        "pair_id": _name("pair_id", source, digest_of([pair.messages, pair.chosen, pair.rejected], place), place),
        "prompt_id": digest[:12],
        **pair._asdict(),
        "split": given_split(source, place) or by_hash,
    }
    if "prompt_id" in source:
        row["source_prompt_id"] = _name("prompt_id", source, "", place) or None
    return row | {key: value for key, value in source.items() if key not in OWN}, digest


def _name(column: str, source: dict[str, Any], digest: str, place: str) -> str:
    given = source.get(column)
    return name_of(column, None if is_absent(given) else given, digest, place)
