"""AdamW for weights in bf16 that loses none of its small steps.

A bf16 weight has 8 significant bits: a step of 1e-6 of its size would round to nothing. So the weight is taken as
the upper half of an fp32 number, whose lower half is kept beside it as int16: six bytes fewer per weight than a
copy in fp32 with its own gradient, and the same steps (but for a rounding of one fp32 unit in 1 of 65,536 cases).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

CHUNK = 1 << 18  # weights at a time on a CPU: the fp32 numbers exist only for one chunk, in its cache
ON_GPU = 1 << 20  # where a chunk costs some twenty launches
LARGE = 1 << 22


def split(wide: Tensor) -> tuple[Tensor, Tensor]:
    """Return fp32 numbers as bf16, rounded to nearest, and the int16 rest of their bit patterns; `wide` is used up."""
    high = wide.to(torch.bfloat16)
    rest = wide.view(torch.int32).sub_(high.float().view(torch.int32))
    return high, rest.clamp_(-0x8000, 0x7FFF).to(torch.int16)


def join(high: Tensor, low: Tensor) -> Tensor:
    """Return the fp32 numbers whose halves are `high` (bf16) and `low` (int16)."""
    return high.float().view(torch.int32).add_(low).view(torch.float32)


def is_large(parameter: Tensor) -> bool:
    """Tell whether this weight's steps are faster chunk by chunk, in a CPU's cache."""
    return parameter.device.type == "cpu" and parameter.numel() >= LARGE


class SplitAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter 2019); a parameter in bf16 is the upper half of an fp32 one.

    Its state per parameter: step, exp_avg and exp_avg_sq in fp32, and for bf16 `low`, the lower half.
    """

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float], eps: float, decay: float) -> None:
        super().__init__(groups, {"betas": betas, "eps": eps, "weight_decay": decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Make one step from the parameters' gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros(parameter.shape, device=parameter.device)
        if parameter.dtype == torch.bfloat16 and "low" not in state:  # new, or in fp32 so far
            state["low"] = torch.zeros(parameter.shape, dtype=torch.int16, device=parameter.device)
        flat = {n: state[n].view(-1) for n in ("exp_avg", "exp_avg_sq", "low") if n in state}
        weights, grads = parameter.view(-1), parameter.grad.reshape(-1)  # type: ignore[union-attr]
        chunk = CHUNK if parameter.device.type == "cpu" else ON_GPU
        for start in range(0, len(weights), chunk):
            part = slice(start, start + chunk)
            wide = join(weights[part], flat["low"][part]) if "low" in flat else weights[part]
            step = state["step"].clone()
            adamw(
                [wide], [grads[part].float()], [flat["exp_avg"][part]], [flat["exp_avg_sq"][part]], [], [step],
                foreach=False, amsgrad=False, beta1=group["betas"][0], beta2=group["betas"][1], lr=group["lr"],
                weight_decay=group["weight_decay"], eps=group["eps"], maximize=False,
            )  # fmt: skip
            if "low" in flat:
                weights[part], flat["low"][part] = split(wide)
        state["step"] += 1
