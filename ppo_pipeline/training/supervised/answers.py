"""Learning answers: the loss of supervised fine-tuning on their tokens alone, and its like on held-out rows."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...compute import crowd
from ...models.loading import head_of, logit_divisor
from ...models.logprobs import likeliest_tokens, token_logprobs
from ...models.packed import can_pack
from ...models.policy import Policy, Sequences, hidden_states, pack, pad, positions
from ...observe.counter import Counter
from ...prompts.taught import TaughtRow
from ...resume.kept_batches import KeptBatches
from ...resume.snapshots import Snapshots
from ..batches import by_token_budget


class Heldout(NamedTuple):
    """loss: mean over the answers' tokens, in nats. token_accuracy: share of them that are the likeliest (TRL's)."""

    loss: float
    token_accuracy: float


class Answers:
    """A Task: L = - sum over the answers' tokens of log p(token | all before it), each token with the same weight.

    Source: Ouyang et al. 2022, arXiv:2203.02155, section 3.5; TRL's SFTTrainer with assistant_only_loss. `budget`:
    tokens of one forward. Rows are packed behind one another where the model can do that (models/packed.py), else
    padded: none attends to another.
    """

    def __init__(self, policy: Policy, rows: list[TaughtRow], budget: int) -> None:
        self.policy, self.rows, self.budget = policy, rows, budget
        self.packed = can_pack(policy.model)
        self.device = policy.model.device
        self.names = [row.name for row in rows]
        self.weights = np.array([row.taught for row in rows], np.float64)
        self.tokens = np.array([len(row.ids) for row in rows], np.int64)

    def microbatches(self, indices: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Return the rows in parts of at most `budget` tokens, padding included; a longer row is a part of its own."""
        parts = by_token_budget(self.tokens[indices], self.budget, padded=not self.packed)
        return [indices[part] for part in parts]

    def loss(self, indices: NDArray[np.int64]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the summed negative log probability of the answers' tokens."""
        hidden, targets = self._states(self._batch(indices))
        return -self._logprobs(hidden, targets).sum(), {}

    @crowd.sharing()
    @torch.no_grad()
    def heldout(self, counter: Counter, snapshots: Snapshots | None = None) -> Heldout:
        """Return loss and accuracy over all rows; finished batches of a killed attempt are not done again."""
        arrays = {name: np.zeros(len(self.rows)) for name in ("loss", "right")}
        batches = self.microbatches(np.arange(len(self.rows)))
        with KeptBatches(snapshots, arrays, batches) as kept:
            for indices in kept.remaining():
                hidden, targets = self._states(self._batch(indices))
                right = likeliest_tokens(hidden, *head_of(self.policy.model)) == targets
                for name, values in (("loss", -self._logprobs(hidden, targets)), ("right", right)):
                    by_row = values.double().cpu().split(self.weights[indices].astype(int).tolist())
                    arrays[name][indices] = [row.sum().item() for row in by_row]
                counter.advance(len(indices), int(self.tokens[indices].sum()))
        tokens = self.weights.sum()
        return Heldout(float(arrays["loss"].sum() / tokens), float(arrays["right"].sum() / tokens))

    def _batch(self, indices: NDArray[np.int64]) -> Sequences:
        """Return the rows as one batch in which each answer counts as a response of its own."""
        rows = [self.rows[i] for i in indices]
        ids, nothing = [torch.tensor(row.ids, dtype=torch.int32) for row in rows], torch.zeros(0, dtype=torch.int32)
        empty = [nothing] * len(rows)
        batch = pack(ids, empty, 0, self.device, 0) if self.packed else pad(ids, empty, 0, self.device)
        spans = torch.tensor([span for row in rows for span in row.spans])
        answers = torch.tensor([len(row.spans) for row in rows])
        return batch._replace(
            starts=torch.repeat_interleave(batch.starts, answers),
            prompt_lengths=spans[:, 0],
            response_lengths=spans[:, 1] - spans[:, 0],
        )

    def _states(self, batch: Sequences) -> tuple[Tensor, Tensor]:
        """Return the hidden state before each token of an answer (N, H), and these tokens (N,)."""
        before, _, targets = positions(batch)
        return hidden_states(self.policy.model, batch)[before], targets

    def _logprobs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        divisor = logit_divisor(self.policy.model)
        return token_logprobs(hidden, *head_of(self.policy.model), targets, divisor, with_entropy=False)[0]
