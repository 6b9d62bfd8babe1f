"""The task of a reward model: of each pair of answers, a higher reward for the chosen one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...maths.bradley_terry import bradley_terry_losses
from ...models.prefix import shared
from ..batches import by_token_budget
from ..data import Sampled, sharing
from .inputs import Asked
from .model import RewardPolicy, read_ids


def texts_of(asked: Asked, pad_id: int, model: Any) -> Sampled:
    """Return the chosen answers, then the rejected ones, each as its last token behind all before it.

    Each is cut behind the token that its reward is read at. What texts start with in common, a pair's prompt above all,
    runs once in a batch where the model can do that.
    """
    arrays = [torch.from_numpy(read_ids(ids, pad_id)) for ids in [*asked.chosen, *asked.rejected]]
    return sharing(asked.names * 2, [array[:-1] for array in arrays], [array[-1:] for array in arrays], model, "tree")


class PairTask:
    """A Task of training/supervised/loop.py. An example is a pair, and both its answers are in one forward.

    texts: of `texts_of`. margins: by how much each chosen answer should win; None: by nothing.
    """

    def __init__(
        self, policy: RewardPolicy, texts: Sampled, margins: Sequence[float] | None, budget: int, pad_id: int
    ) -> None:
        self.policy, self.texts, self.budget, self.pad_id = policy, texts, budget, pad_id
        self.count = len(texts.sample_ids) // 2
        self.names = texts.sample_ids[: self.count]
        self.margins = None if margins is None else torch.tensor(margins, dtype=torch.float32)
        self.weights = np.ones(self.count)
        lengths = texts.total_lengths.reshape(2, -1)
        self.tokens = lengths.sum(0)
        self.places = self.tokens if texts.packed else 2 * lengths.max(0)
        if texts.tree:
            both = zip(texts.prompts[: self.count], texts.prompts[self.count :], strict=True)
            self.places = self.tokens - [shared(chosen.tolist(), rejected.tolist()) for chosen, rejected in both]

    def microbatches(self, indices: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Return a batch's pairs in parts of similar length."""
        texts = self.texts
        parts = by_token_budget(self.places[indices], self.budget, texts.prefix, padded=not texts.packed)
        return [indices[part] for part in parts]

    def loss(self, indices: NDArray[np.int64]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the pairs' losses; how many are ordered rightly, and sums of rewards and of differences."""
        device = self.policy.model.device
        batch = self.texts.sequences(np.concatenate([indices, indices + self.count]), self.pad_id, device)
        chosen, rejected = self.policy.rewards(batch).chunk(2)
        margins = None if self.margins is None else self.margins[torch.from_numpy(indices)].to(device)
        losses = bradley_terry_losses(chosen, rejected, margins)
        difference = (chosen - rejected).detach()
        return losses.sum(), {
            "accuracy": (difference > 0).sum() + (difference == 0).sum() / 2,
            "margin": difference.sum(),
            "mean_reward": (chosen + rejected).detach().sum() / 2,
        }
