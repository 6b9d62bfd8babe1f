"""The gradient of a minibatch whose samples, and whose model, are shared out over ranks.

Each rank runs the microbatches of its samples and divides by the whole minibatch's divisor; the last one's backward
pass adds the ranks' gradients up. Every pass moves weights between ranks, so that all make as many: a rank with fewer
microbatches runs the shortest sample for nothing, by weight 0.
"""

import itertools
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .data import Padding, Sampled
from .groups import deal
from .loss import check_finite
from .loss_inputs import LossInputs
from .sharded import ShardedPolicy
from .update_state import save_state

if TYPE_CHECKING:
    from .ppo import PPO


class Told(NamedTuple):
    """What a rank knows of its microbatches beside their gradient, as PPO.gradient returns it; and their padding."""

    sums: dict[str, float]
    ratios: list[Tensor]
    padding: Padding


def sharded_gradient(
    ppo: "PPO", data: Sampled, targets: LossInputs, indices: NDArray, divisor: int
) -> tuple[dict[str, float], list[Tensor]]:
    """Make this rank's part of the gradient of a minibatch; return all ranks' statistics and ratios, on all of them.

    A loss that is not finite is told when all have made their passes, by all: earlier, the others would wait for ever.
    """
    policy = ppo.policy
    assert isinstance(policy, ShardedPolicy)
    ppo.optimizer.zero_grad(set_to_none=True)
    if ppo.snapshots is not None and ppo.ranks.share(ppo.snapshots.due):
        save_state(ppo, ppo.snapshots)
    by_rank = microbatches(ppo, data, indices)
    passes, own = max(map(len, by_rank)), by_rank[ppo.ranks.rank]
    shortest = indices[[np.argmin(data.total_lengths[indices])]]
    told, of_all, losses = Told(defaultdict(float), [], Padding()), ppo.padding, list[float]()
    for place in range(passes):
        policy.sync(place == passes - 1)
        if place < len(own):
            ppo.padding = told.padding
            loss, number, ratio = ppo._microbatch(data, targets, own[place], told.sums)
            losses.append(number)
            told.ratios.extend([] if ppo.grad_norms else [ratio.cpu()])
        else:
            ppo.padding = Padding()
            loss = 0 * ppo._microbatch(data, targets, shortest, defaultdict(float))[0]
        (loss / divisor).backward()
    policy.take_gradients()
    ppo.padding = of_all

    def tell() -> Told:
        for number, part in zip(losses, own, strict=True):
            check_finite(number, ppo.steps + 1, data, part)
        return told

    return _together(ppo, ppo.ranks.gather(tell))


def microbatches(ppo: "PPO", data: Sampled, indices: NDArray) -> list[list[NDArray]]:
    """Return each rank's microbatches: those of its gradient groups, of which there are as many for each rank."""
    ranks, settings = ppo.ranks.size, ppo.settings
    share = -(-settings.gradient_groups // ranks)
    groups = [indices[part] for part in deal(data.total_lengths[indices], share * ranks)]
    parts = [data.batches(group, settings.microbatch_tokens) for group in groups]
    return [[*itertools.chain(*parts[rank * share : (rank + 1) * share])] for rank in range(ranks)]


def _together(ppo: "PPO", told: list[Told]) -> tuple[dict[str, float], list[Tensor]]:
    """Return the sums over ranks of what they know, and their ratios."""
    sums: dict[str, float] = defaultdict(float)
    ratios: list[Tensor] = []
    for of_rank in told:
        for name, value in of_rank.sums.items():
            sums[name] += value
        ratios.extend(of_rank.ratios)
        ppo.padding.tokens += of_rank.padding.tokens
        ppo.padding.places += of_rank.padding.places
    return sums, ratios
