"""A small project with an entry in `sft`."""

import json
from pathlib import Path
from typing import Any

from stage_runs import Stages
from supervised_entries import sft_values


def write_talk(path: Path) -> None:
    """Write a dozen rows that teach to answer a letter by letters, a quarter of them held out."""
    rows = [
        {"messages": [{"role": "user", "content": f"Say {c}"}, {"role": "assistant", "content": c * (1 + i % 5)}],
         "split": "heldout" if i % 4 == 3 else "train"}
        for i, c in enumerate("abcdefghijkl")
    ]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def sft_project(
    folder: Path, start: str = "data/base", policy: str = "lora", more: dict[str, Any] | None = None, **changes: Any
) -> Stages:
    """Make a project with the entry `sft.chat`; start, policy: of `policy`. more: other settings of any sections."""
    write_talk(folder / "data/talk.jsonl")

    def change(params: Any) -> None:
        small = {"lr": 0.01, "microbatch_tokens": 40, "epochs": 3, "max_tokens": 200}
        params["sft"] = {"chat": sft_values(**small | changes)}
        params["policy"].update(start=start, tuning=policy)
        for section, values in (more or {}).items():
            params[section] = {**params[section], **values} if section == "policy" else values

    return Stages(folder, change)
