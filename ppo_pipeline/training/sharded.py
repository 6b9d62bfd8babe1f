"""Full tuning spread over ranks: each holds a part of every weight, gradient and moment (FSDP2, `fully_shard`).

Zhao et al. 2023, arXiv:2304.11277; ZeRO stage 3 (Rajbhandari et al. 2020, arXiv:1910.02054). A block's weights are
whole only while it computes. Optimizer, clipping and files see the parts as plain tensors, under the names of today.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from ..errors import PipelineError
from ..models.checkpointing import blocks_of
from ..models.policy import Policy, Scores, Sequences
from .parts import gathered, part_of

ADVICE = "Set compute.workers (or PPO_PIPELINE_WORKERS) to 1, or policy.tuning to lora."


class TreeReduceScatter:
    """What FSDP calls a ReduceScatter. Ranks' gradients are added in a fixed order, not in that of gloo or NCCL."""

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return room for a collective's tensors."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: bool = False
    ) -> None:
        """Put the sum over ranks of this rank's chunk of `input_tensor` (size n,) into `output_tensor` (n,)."""
        received = torch.empty_like(input_tensor)
        dist.all_to_all_single(received, input_tensor, group=group)
        output_tensor.copy_(sum_in_order(list(received.view(-1, output_tensor.numel()))))


def sum_in_order(parts: list[Tensor]) -> Tensor:
    """Return ((p0 + p1) + (p2 + p3)) + ..., of any number of parts."""
    while len(parts) > 1:
        parts = [sum(parts[i + 1 : i + 2], start=parts[i]) for i in range(0, len(parts), 2)]
    return parts[0]


class _Root(nn.Module):
    """What FSDP takes for the model: its forward runs any call in which all of these modules' weights are needed.

    The call comes as a closure, since FSDP moves tensors among a forward's arguments to the GPU.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.model, self.value_head = policy.model, policy.value_head
        self.critic = policy.separate.model if policy.separate else None

    def forward(self, call: Callable[[], Scores]) -> Scores:
        """Return what `call` returns, none of it a view, which FSDP would warn of."""
        return Scores(*(None if x is None else x.clone() for x in call()))  # type: ignore[arg-type]


class ShardedPolicy(Policy):
    """A policy whose whole model is trained, by all ranks of the process group together.

    Its parameters are this rank's rows of the real ones, plain tensors over the same memory as FSDP's. `score` and its
    backward pass talk with the other ranks: each of them must make as many.
    """

    sharded = True

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy.model, policy.layers, policy.value_head, policy.separate)
        self.root = _sharded(policy)
        self.by_fsdp = {**Policy.policy_parameters(self), **Policy.value_parameters(self)}
        self.own = {name: nn.Parameter(p.detach().to_local()) for name, p in self.by_fsdp.items()}
        self.sync(False)

    def policy_parameters(self) -> dict[str, nn.Parameter]:
        """Return this rank's part of every weight by name."""
        return {name: self.own[name] for name in super().policy_parameters()}

    def value_parameters(self) -> dict[str, nn.Parameter]:
        """Return this rank's part of value head and separate critic by name."""
        return {name: self.own[name] for name in super().value_parameters()}

    def score(self, batch: Sequences, temperature: float, with_values: bool = True) -> Scores:
        """Run the training forward as Policy.score does, beside the other ranks'."""
        scores: Scores = self.root(lambda: Policy.score(self, batch, temperature, with_values))
        return scores

    def sync(self, on: bool) -> None:
        """Set whether the next backward pass adds up the ranks' gradients; else they stay with each rank, whole."""
        self.root.set_requires_gradient_sync(on)

    def take_gradients(self) -> None:
        """Give this rank's parameters the gradients that the last backward pass has left, summed over ranks."""
        for name, parameter in self.by_fsdp.items():
            self.own[name].grad = None if parameter.grad is None else parameter.grad.to_local()
            parameter.grad = None

    def shapes(self) -> dict[str, torch.Size]:
        """Return the shapes of the whole parameters."""
        return {name: p.shape for name, p in self.by_fsdp.items()}

    def part(self, name: str, tensor: Tensor) -> Tensor:
        """Return this rank's rows of a tensor with as many rows as the parameter `name`, on its device."""
        return part_of(tensor).to(self.model.device)

    def whole(self, name: str, tensor: Tensor) -> Tensor | None:
        """Return the ranks' parts of a tensor put together, in rank 0's memory; None on the others."""
        return gathered(tensor, torch.Size([self.by_fsdp[name].shape[0], *tensor.shape[1:]]))

    def assembled(self) -> Policy | None:
        """Return on rank 0 the policy with whole weights in memory, to be saved; None on the others.

        It takes this one's place: no further forward can be made.
        """
        wholes = {id(self.by_fsdp[name]): self.whole(name, own.detach()) for name, own in self.own.items()}
        if dist.get_rank():
            return None
        made = {key: nn.Parameter(whole) for key, whole in wholes.items() if whole is not None}
        for module in self.root.modules():
            for name, parameter in module._parameters.items():
                if id(parameter) in made:  # tied weights: one parameter under two names
                    module._parameters[name] = made[id(parameter)]
        return Policy(self.model, {}, self.value_head, self.separate)


def _sharded(policy: Policy) -> Any:
    """Shard the policy's models block by block; return the root, whose forward all of them are run in."""
    device = policy.model.device.type
    if device not in ("cpu", "cuda"):
        raise PipelineError(
            f"policy.tuning: full: weights cannot be spread over workers on the device {device}. {ADVICE}"
        )
    root = _Root(policy)
    units = [block for model in (root.model, root.critic) if model is not None for block in _blocks(model)]
    if root.value_head is not None:
        units.append(root.value_head.linear)  # in fp32 whatever the others are
    units.append(root)
    _check(units)
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    for unit in units:
        fully_shard(unit, mesh=mesh)
    for module in units_of(root):
        module.set_gradient_divide_factor(1.0)  # the loss is divided by the whole minibatch's divisor already
        module.set_force_sum_reduction_for_comms(True)
        module.set_custom_reduce_scatter(TreeReduceScatter())  # type: ignore[arg-type] # the base is not public
    return root


def units_of(root: nn.Module) -> list[FSDPModule]:
    """Return the root and all that is sharded within; most of FSDP's settings reach one unit alone."""
    return [module for module in root.modules() if isinstance(module, FSDPModule)]


def _blocks(model: Any) -> list[nn.Module]:
    found = blocks_of(model)
    if not found:
        raise PipelineError(
            f"policy.tuning: full: transformers does not mark the blocks of {type(model).__name__}, so that it cannot "
            f"be spread over workers. {ADVICE}"
        )
    return found


def _check(units: list[nn.Module]) -> None:
    """Raise PipelineError for weights that FSDP cannot share out; `units`: the last one has all others within it."""
    modules: set[nn.Module] = set()
    owned: set[nn.Parameter] = set()
    for unit in units:
        own = [module for module in unit.modules() if module not in modules]
        parameters = {p: name for module in own for name, p in module._parameters.items() if p is not None}
        if not owned.isdisjoint(parameters) or (unit is not units[-1] and len(own) < len(list(unit.modules()))):
            raise _refused(unit, "shares weights with another block")
        for parameter, name in parameters.items():
            if not parameter.ndim or not parameter.is_contiguous():
                raise _refused(unit, f"has a weight '{name}' without rows, or whose rows are not end to end")
        if any(name.endswith("experts") and isinstance(module, nn.ModuleList) for name, module in unit.named_modules()):
            raise _refused(unit, "has experts that are modules of their own, of which ranks may use different ones")
        formats = {str(parameter.dtype).removeprefix("torch.") for parameter in parameters if parameter.requires_grad}
        if len(formats) > 1:
            raise _refused(unit, f"has weights in {' and '.join(sorted(formats))}")
        modules.update(own)
        owned.update(parameters)


def _refused(unit: nn.Module, why: str) -> PipelineError:
    what = f"policy.tuning: full: {type(unit).__name__}"
    return PipelineError(f"{what} {why}; it cannot be spread over workers. {ADVICE}")
