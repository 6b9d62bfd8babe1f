"""The gradient of a minibatch by groups: each rank makes some of them, and they are added in a fixed tree."""

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .batches import generator
from .data import Padding, Sampled
from .groups import TreeSum, deal
from .loss_inputs import LossInputs
from .update_state import save_state

if TYPE_CHECKING:
    from .ppo import PPO


class Told(NamedTuple):
    """What is known of a group beside its gradient, as it goes to the other ranks.

    sums: statistics over its tokens. ratios: of each microbatch, per token, where they are wanted. touched: which
    parameters got a gradient.
    """

    sums: dict[str, float]
    ratios: list[Tensor]
    padding: Padding
    touched: list[bool]


def grouped_gradient(
    ppo: "PPO", data: Sampled, targets: LossInputs, indices: NDArray, divisor: int
) -> tuple[dict[str, float], list[Tensor]]:
    """Make the gradient of the minibatch `indices`, the same on every rank; return its statistics and ratios.

    Where LoRA is trained the groups' gradients are added in a tree. A whole model's are added one behind the other in
    their place: a copy for each level of the tree would be too dear.
    """
    ppo.optimizer.zero_grad(set_to_none=True)
    if ppo.snapshots is not None and ppo.ranks.share(ppo.snapshots.due):
        save_state(ppo, ppo.snapshots)
    groups = [indices[part] for part in deal(data.total_lengths[indices], ppo.settings.gradient_groups)]
    share, over = divmod(len(groups), ppo.ranks.size)
    assert not over, "each rank must have as many groups as another (groups.fitting)"
    tree = TreeSum()

    def make() -> list[Told]:
        found = []
        for group in range(ppo.ranks.rank * share, (ppo.ranks.rank + 1) * share):
            found.append(_accumulate(ppo, data, targets, groups[group], group, divisor))
            if ppo.policy.layers:
                tree.add(_taken(ppo.parameters))
        return found

    told = [group for of_rank in ppo.ranks.gather(make) for group in of_rank]
    if ppo.policy.layers:
        touched = [any(each) for each in zip(*(group.touched for group in told), strict=True)]
        _put(ppo.ranks.tree_sum(tree.total()), ppo.parameters, touched)
    sums: dict[str, float] = defaultdict(float)
    for group in told:
        for name, value in group.sums.items():
            sums[name] += value
        ppo.padding.tokens += group.padding.tokens
        ppo.padding.places += group.padding.places
    return sums, [ratio for group in told for ratio in group.ratios]


def _accumulate(
    ppo: "PPO", data: Sampled, targets: LossInputs, indices: NDArray, group: int, divisor: int
) -> Told:  # fmt: skip
    """Add the gradient of a group, which may be empty, to the parameters' own."""
    epoch, minibatch = ppo.position.epoch, ppo.position.minibatch
    rng = generator(*ppo.seed_key, "epoch", epoch, "minibatch", minibatch, "group", group)
    torch.manual_seed(int(rng.integers(2**63)))  # LoRA's dropout
    first = not ppo.grad_norms and not ppo.skipped
    told = Told(defaultdict(float), [], Padding(), [])
    of_all, ppo.padding = ppo.padding, told.padding
    try:
        for part in data.batches(indices, ppo.settings.microbatch_tokens):
            ratio = ppo.backward(data, targets, part, divisor, told.sums)
            told.ratios.extend([ratio.cpu()] if first else [])
    finally:
        ppo.padding = of_all
    told.touched.extend(parameter.grad is not None for parameter in ppo.parameters)
    return told


def _taken(parameters: list[nn.Parameter]) -> Tensor:
    """Return the parameters' gradients in one row, 0 where one has none; they have none afterwards."""
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    for parameter in parameters:
        parameter.grad = None
    return flat


def _put(flat: Tensor, parameters: list[nn.Parameter], touched: list[bool]) -> None:
    """Make the parts of `flat` the gradients of the parameters; one that no group touched gets none."""
    parts = flat.split([parameter.numel() for parameter in parameters])
    for parameter, part, has_one in zip(parameters, parts, touched, strict=True):
        parameter.grad = part.view_as(parameter) if has_one else None
