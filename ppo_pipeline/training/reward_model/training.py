"""The training of one entry of `reward_model`: its pairs, and its members, one after the other."""

import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ...compute.machine import Machine
from ...errors import PipelineError
from ...observe.counter import Counter
from ...resume.scratch import Scratch
from ...settings.reward_model_sections import RewardModel
from .inputs import Asked, pair_inputs
from .trained import trained
from .written import Member, written

SPLITS = ("train", "heldout")


class Training:
    """section: `reward_model.<name>`, as errors name it. `read` comes first, then `machine` is set, then `members`."""

    machine: Machine

    def __init__(self, settings: RewardModel, section: str, tokenizer: Any) -> None:
        self.settings, self.section, self.tokenizer = settings, section, tokenizer
        self.pairs: dict[str, pa.Table] = {}
        self.asked: dict[str, Asked] = {}
        self.seconds = 0.0  # of the training alone

    def read(self, pairs: pa.Table, source: Path, shown: dict[str, Any]) -> None:
        """Take the pairs of a table of preferences, which `source` names in errors.

        shown: how the policy is shown prompts, arguments of a Renderer. Raises PipelineError for pairs that cannot be
        learnt from.
        """
        for split in SPLITS:
            table = pairs.filter(pc.equal(pairs.column("split"), split))
            names = [f"{source}: pair '{pair_id}'" for pair_id in table.column("pair_id").to_pylist()]
            self.pairs[split] = table
            self.asked[split] = pair_inputs(table, self.tokenizer, self.settings, shown, names, self.section)
        if not self.training.names:
            raise PipelineError(f"{source}: no pair to train on; lower preferences' heldout_fraction, or bring more.")

    @property
    def training(self) -> Asked:
        """The pairs to train on."""
        return self.asked["train"]

    @property
    def heldout(self) -> Asked:
        """The others."""
        return self.asked["heldout"]

    @property
    def answers(self) -> int:
        """How many answers go through all members' training and evaluation."""
        passes = self.settings.epochs + self.settings.centre
        return 2 * self.settings.members * (passes * len(self.training.names) + len(self.heldout.names))

    def margins(self) -> list[float] | None:
        """Return the training pairs' margins, 0 where one has none; None without any, or where the setting says so."""
        column = self.pairs["train"].column("margin").take(pa.array(self.training.rows, pa.int64()))
        if not self.settings.margin or column.null_count == len(column):
            return None
        found: list[float] = pc.fill_null(column, 0.0).to_pylist()
        return found

    def members(self, folder: Path, scratch: Scratch, counter: Counter) -> list[Member]:
        """Train each member and write it to `folder`, or where there are several to folders 1, 2, ... in it.

        Each has snapshots of its own; of one that is trained already the last is its end.
        """
        found, margins = [], self.margins()
        for number in range(1, self.settings.members + 1):
            place = folder if self.settings.members == 1 else folder / str(number)
            began = time.perf_counter()
            policy, curve = trained(self, margins, number, scratch.part(f"member-{number}"), counter)
            self.seconds += time.perf_counter() - began
            found.append(written(self, policy, curve, place, counter))
        return found

    def numbers(self, members: list[Member]) -> dict[str, float]:
        """Return the metrics of the training; of an ensemble those of each member by its number."""
        found: dict[str, float] = {"train/steps": len(members[0].curve)}
        for split, asked in self.asked.items():
            found |= {f"{split}/pairs": len(asked.names), f"{split}/skipped": len(asked.skipped)}
            found[f"{split}/same_tokens"] = len(asked.alike)
        for number, member in enumerate(members, 1):
            suffix = "" if len(members) == 1 else f"_{number}"
            found |= {f"train{suffix}/{name}": value for name, value in member.last_epoch().items()}
            if self.settings.centre:
                numbers = {"shift": member.shift, "spread": member.spread, "mean": member.mean}
                found |= {f"centre{suffix}/{name}": value for name, value in numbers.items()}
        return found
