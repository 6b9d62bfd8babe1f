"""AdamW over policy and critic, with moments that travel from round to round by parameter name."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import PipelineError
from ..models.checkpoint import TrainerState
from ..models.policy import Policy
from ..settings.learning_sections import Update
from ..settings.supervised_sections import Supervised
from .eight_bit import EightBitAdamW, is_kept_in_8_bits, moment_bytes, narrowed, widened
from .split_adamw import SplitAdamW, is_large, join

MOMENTS = ("exp_avg", "exp_avg_sq", "low", "exp_avg_scale", "exp_avg_sq_scale")
WHOLE, PART = 1 << 26, 1 << 20  # of a gradient, for its norm


def make_optimizer(policy: Policy, settings: Update, state: TrainerState, factor: float = 1.0) -> torch.optim.Optimizer:
    """Return AdamW with `state`'s moments in place; policy and critic each at their own learning rate.

    factor: of both learning rates, from the schedule.
    """
    groups = [{"params": list(policy.policy_parameters().values()), "lr": settings.lr * factor}]
    if policy.value_head is not None:
        groups.append({"params": list(policy.value_parameters().values()), "lr": settings.value_lr * factor})
    eight_bit = settings.optimizer == "adamw_8bit"
    optimizer = adamw(groups, settings, eight_bit)
    values = set(policy.value_parameters())
    for name, parameter in trained_parameters(policy).items():
        kept = {m: state.moments[f"{name}.{m}"] for m in MOMENTS if f"{name}.{m}" in state.moments}
        low = kept.pop("low", None)
        if low is not None and parameter.dtype == torch.float32:
            with torch.no_grad():  # trained in bf16 before, now in fp32
                parameter.copy_(join(parameter.to(torch.bfloat16), policy.part(name, low)))
        elif low is not None:
            kept["low"] = low
        if kept:
            parts = {m: policy.part(name, t) for m, t in kept.items()}
            convert = narrowed if eight_bit and is_kept_in_8_bits(parameter) else widened
            optimizer.state[parameter] = convert(parts)
            steps = state.value_step if name in values else state.optimizer_step
            optimizer.state[parameter]["step"] = step_count(optimizer, parameter, torch.tensor(float(steps)))
    return optimizer


def step_count(optimizer: torch.optim.Optimizer, parameter: Tensor, steps: Tensor) -> Tensor:
    """Return the number of steps () where this optimizer keeps it: the fused AdamW on the GPU, others on the CPU."""
    return steps.to(parameter.device if optimizer.defaults.get("fused") else "cpu")


def adamw(
    groups: list[dict[str, Any]], settings: Update | Supervised, eight_bit: bool = False
) -> torch.optim.Optimizer:
    """Return AdamW over groups of parameters, each with its own `lr`; what is in bf16 loses no small step.

    eight_bit: moments in 8 bits. Large fp32 weights on a CPU make the same steps, to the last bit, without a copy of
    all second moments. On an NVIDIA or AMD GPU one kernel makes the step of many fp32 weights.
    """
    betas, eps, decay = (settings.adam_beta1, settings.adam_beta2), settings.adam_eps, settings.weight_decay
    every = [p for group in groups for p in group["params"]]
    if eight_bit:
        if not all(p.is_contiguous() for p in every):
            raise PipelineError(
                "params.yaml: update.optimizer: adamw_8bit takes weights whose rows are end to end in memory, and some "
                "of this model's are not; set adamw."
            )
        return EightBitAdamW(groups, betas, eps, decay)
    large = any(map(is_large, every)) and all(p.is_contiguous() for p in every)
    if large or any(p.dtype == torch.bfloat16 for p in every):
        return SplitAdamW(groups, betas, eps, decay)
    fused = all(p.device.type == "cuda" for p in every)
    return torch.optim.AdamW(groups, betas=betas, eps=eps, weight_decay=decay, foreach=not fused, fused=fused)


def trained_parameters(policy: Policy) -> dict[str, nn.Parameter]:
    """Return every parameter that is trained, by name."""
    return {**policy.policy_parameters(), **policy.value_parameters()}


def moments_of(policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's moments by parameter name; of a sharded policy, on rank 0."""
    moments: dict[str, Tensor] = {}
    for name, parameter in trained_parameters(policy).items():
        state = optimizer.state.get(parameter, {})
        wholes = {f"{name}.{moment}": policy.whole(name, state[moment]) for moment in MOMENTS if moment in state}
        moments |= {key: whole for key, whole in wholes.items() if whole is not None}
    return moments


def snapshot_bytes(parameters: Iterable[Tensor], eight_bit: bool = False) -> int:
    """Return about how many bytes a snapshot of a training has: weights, gradients, moments and lower halves."""
    size = 0
    for p in parameters:
        size += p.numel() * (2 * p.element_size() + 2 * (p.dtype == torch.bfloat16))
        size += moment_bytes(p) if eight_bit and is_kept_in_8_bits(p) else 8 * p.numel()
    return size


def gradient_norm(parameters: list[Tensor]) -> Tensor:
    """Return the 2-norm of all gradients together, in fp32 where they are in half precision.

    On a CPU torch adds up a tensor's squares in fp32, 2 % too little for 155 million numbers, and makes an fp32 copy of
    a bf16 one first: a tensor of more than WHOLE numbers is taken in parts.
    """
    grads = [part for p in parameters if p.grad is not None for part in _parts(p.grad)]
    if all(grad.dtype == torch.float32 for grad in grads):
        return torch.nn.utils.get_total_norm(grads)
    norms = [torch.linalg.vector_norm(grad, dtype=torch.float32) for grad in grads]
    return torch.linalg.vector_norm(torch.stack(norms))


def _parts(grad: Tensor) -> tuple[Tensor, ...]:
    whole = grad.device.type != "cpu" or grad.numel() <= WHOLE
    return (grad,) if whole else grad.reshape(-1).split(PART)
