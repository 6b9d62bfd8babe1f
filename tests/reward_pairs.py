"""A project with a tiny base model and pairs of answers, and the stage that trains a reward model on them."""

from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from click.testing import CliRunner
from conftest import CHAT_TEMPLATE, save_tiny
from ruamel.yaml import YAML
from supervised_entries import VALUES

from ppo_pipeline.tables.preferences import PREFERENCES
from stages.__main__ import main

REPOSITORY = Path(__file__).resolve().parent.parent
NAME = "kind"
VOWELS, CONSONANTS = "aeiou", "bcdfghkl"
# Its end is no token of the tokenizer's padding, so that the whole text is read.
OPEN_TEMPLATE = CHAT_TEMPLATE.replace("<|end|>", "<|end|>.")


def entry(**changes: Any) -> dict[str, Any]:
    """Return an entry of `reward_model`."""
    own = {"preferences": "pairs", "model": "data/base", "members": 1, "input": "chat", "margin": True, "centre": True}
    learns = {"seed": 0, "lr": 0.01, "lr_schedule": "linear", "epochs": 4, "batch_size": 8, "microbatch_tokens": 200}
    return {**own, **VALUES, **learns, "max_grad_norm": 1.0, "max_tokens": 120, **changes}


def pairs_table(count: int = 32, heldout: int = 12, **columns: Any) -> pa.Table:
    """Return pairs in which the chosen answer is of vowels, of whatever length."""
    rng = np.random.default_rng(0)

    def text(letters: str) -> str:
        return "".join(rng.choice(list(letters), rng.integers(3, 9)))

    rows = count + heldout
    values: dict[str, Any] = {
        "pair_id": [f"p{i}" for i in range(rows)],
        "prompt_id": [f"q{i // 2}" for i in range(rows)],
        "messages": [[{"role": "user", "content": f"Say {i // 2}"}] for i in range(rows)],
        "chosen": [text(VOWELS) for _ in range(rows)],
        "rejected": [text(CONSONANTS) for _ in range(rows)],
        "margin": pa.nulls(rows, pa.float64()),
        "split": ["train"] * count + ["heldout"] * heldout,
    }
    return pa.table({**values, **columns})


class RewardProject:
    """A project folder; `changes` are of its entry of `reward_model`."""

    def __init__(
        self, folder: Path, pairs: pa.Table | None = None, architecture: str = "llama",
        template: str | None = OPEN_TEMPLATE, **changes: Any,
    ) -> None:  # fmt: skip
        self.folder = folder
        save_tiny(folder / "data/base", architecture, template)
        PREFERENCES.write(pairs_table() if pairs is None else pairs, folder / "data/preferences/pairs.parquet")
        self.set(**changes)

    def set(self, **changes: Any) -> None:
        """Write params.yaml with the entry so changed."""
        params = YAML(typ="safe").load(REPOSITORY / "params.yaml")
        params["compute"].update(device="cpu", dtype="fp32", threads=1)
        params["preferences"] = {"pairs": {"source": "pairs.jsonl", "heldout_fraction": 0.1}}
        params["reward_model"] = {NAME: entry(**changes)}
        YAML().dump(params, self.folder / "params.yaml")

    def run(self) -> str:
        """Run the stage; return what it says."""
        with chdir(self.folder):
            result = CliRunner().invoke(main, ["reward_model", NAME], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    @property
    def model(self) -> Path:
        """The folder that it writes."""
        return self.folder / "data/reward_model" / NAME
