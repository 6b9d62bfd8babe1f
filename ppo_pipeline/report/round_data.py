"""A round's samples, read once: the numbers of all of them, and the rows of the first ones."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ..tables.advantages import ADVANTAGES
from ..tables.joined import sequence_kl
from ..tables.reference import REFERENCE
from ..tables.rewards import REWARDS
from ..tables.rollouts import ROLLOUTS
from ..tables.schema import lengths
from .conversations import Conversations, Turn
from .run import Run


@dataclass(frozen=True)
class RoundData:
    """A round's samples.

    numbers: score, kl and length of every sample (N,), as far as their tables are there.
    rollouts, rewards, reference, advantages: the tables' first rows, at most `limit` of them; None where missing.
    turns: the conversation of each of those rows' prompts.
    """

    name: str
    numbers: dict[str, np.ndarray]
    rollouts: pa.Table
    rewards: pa.Table | None
    reference: pa.Table | None
    advantages: pa.Table | None
    turns: list[list[Turn]]

    @property
    def total(self) -> int:
        """Number of samples of the round, shown or not."""
        return len(self.numbers["length"])

    def first(self, limit: int) -> "RoundData":
        """Return the same with at most `limit` rows."""
        rewards, reference, advantages = (_head(t, limit) for t in (self.rewards, self.reference, self.advantages))
        rollouts, turns = self.rollouts.slice(0, limit), self.turns[:limit]
        return RoundData(self.name, self.numbers, rollouts, rewards, reference, advantages, turns)


def read_round(run: Run, name: str, limit: int, conversations: Conversations) -> RoundData | None:
    """Return the samples of round `name`, its tables cut to `limit` rows; None where it has no rollouts."""
    rollouts = run.read(ROLLOUTS, name)
    if rollouts is None:
        return None
    rewards, reference, advantages = (run.read(c, name, rollouts) for c in (REWARDS, REFERENCE, ADVANTAGES))
    numbers = {"length": lengths(rollouts, "response_ids").astype(np.float64)}
    if rewards is not None:
        numbers["score"] = rewards.column("score").to_numpy()
    if reference is not None:
        numbers["kl"] = sequence_kl(reference)
    turns = conversations.turns(rollouts.slice(0, limit))
    return RoundData(name, numbers, rollouts, rewards, reference, advantages, turns).first(limit)


def _head(table: pa.Table | None, limit: int) -> pa.Table | None:
    return None if table is None else table.slice(0, limit)
