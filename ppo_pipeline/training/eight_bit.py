"""AdamW whose moments are kept in 8 bits: dynamic codes, block by block (Dettmers et al. 2021, arXiv:2110.02861).

A block of 256 numbers x has one scale s = max |x| in fp32, and for each x the code of that of 256 values in [-1, 1]
which is nearest to x / s; the values are bitsandbytes' (`create_dynamic_map`), of seven decades, the upper ones finer.
Two things differ from there. The second moment v is kept as its root, whose decades are half as many, and no root above
0 becomes 0: a weight with a first moment is never divided by eps alone. And a block never goes on into another row, so
that the rows of a weight may be shared out (sharded.py), and a token that is rarely seen has a scale of its own.
"""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..compute.native.operations import call, serves
from .split_adamw import SplitAdamW, join, split

BLOCK = 256
SHORTEST = 64  # rows of fewer numbers, and vectors, keep their moments in fp32: LoRA's B, norms, biases
ROWS, ON_GPU = 1 << 18, 1 << 22  # numbers at a time, in whole rows
SMALLEST = 1e-37  # scale that is divided by
CODES = {"exp_avg": True, "exp_avg_sq": False}  # signed


@functools.cache
def values_of(signed: bool) -> Tensor:
    """Return what the 256 codes stand for, rising, fp32: 0, 1, and in decade i of seven 2^i (unsigned 2^(i+1)) means.

    They are the middles of as many equal parts of [0.1, 1], times 10^(i - 6); signed has their negatives too.
    """
    decades = []
    for i in range(7):
        ends = torch.linspace(0.1, 1.0, 2 ** (i if signed else i + 1) + 1)
        decades.append((ends[:-1] + ends[1:]) / 2 * 10.0 ** (i - 6))
    means = torch.cat(decades)
    return torch.cat([means, -means if signed else means[:0], torch.tensor([0.0, 1.0])]).sort().values


@functools.cache
def tables(signed: bool, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the codes' values; the code of the lowest fp32 number with given upper 16 bits; the middle above each.

    Between two numbers with the same upper 16 bits lies one middle at most, so that one look and one comparison find
    the nearest code.
    """
    values = values_of(signed)
    middles = (values[1:] + values[:-1]) / 2
    upper = torch.arange(1 << 16, dtype=torch.int32)
    negative = (upper >= 1 << 15).int()  # whose lowest is the farthest from 0
    lowest = ((upper << 16) + negative * 0xFFFF).view(torch.float32)
    floor = torch.bucketize(lowest.nan_to_num(), middles).to(torch.uint8)
    ends = torch.cat([middles, torch.tensor([float("inf")])])
    return values.to(device), floor.to(device), ends.to(device)


def in_blocks(numbers: Tensor) -> Tensor:
    """Return (rows, columns) as (rows, blocks, 256), filled up with zeros."""
    rows, columns = numbers.shape
    return pad(numbers, (0, -columns % BLOCK)).view(rows, -(-columns // BLOCK), BLOCK)


def quantized(numbers: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """Return codes (rows, columns), uint8, and scales (rows, blocks) of fp32 numbers (rows, columns); ties go down."""
    _, floor, middles = tables(signed, numbers.device)
    blocks = in_blocks(numbers)
    scales = blocks.abs().amax(-1)
    scaled = (blocks / scales.clamp_min(SMALLEST)[..., None]).flatten()
    codes = floor.index_select(0, (scaled.view(torch.int32) >> 16) & 0xFFFF)
    codes += scaled > middles.index_select(0, codes.int())
    if not signed:
        codes.clamp_min_((blocks.flatten() > 0).to(torch.uint8))
    return in_rows(codes.view(blocks.shape))[:, : numbers.shape[1]].contiguous(), scales


def dequantized(codes: Tensor, scales: Tensor, signed: bool) -> Tensor:
    """Return the fp32 numbers (rows, columns) that codes and scales stand for."""
    values = tables(signed, codes.device)[0].index_select(0, codes.flatten().int()).view(codes.shape)
    return values.mul_(scales.repeat_interleave(BLOCK, dim=1)[:, : codes.shape[1]])


def is_kept_in_8_bits(parameter: Tensor) -> bool:
    """Tell whether this weight's moments are; the same for all of a weight and for some of its rows."""
    return parameter.ndim > 1 and parameter.shape[1:].numel() >= SHORTEST


def moment_bytes(parameter: Tensor) -> int:
    """Return how many bytes both moments of such a weight have: two codes a number, two scales a block."""
    rows, columns = parameter.shape[0], parameter.shape[1:].numel()
    return rows * (2 * columns + 8 * -(-columns // BLOCK))


def in_rows(tensor: Tensor) -> Tensor:
    """Return a weight, or what has its shape, as a matrix over the same memory."""
    return tensor.view(tensor.shape[0], tensor.shape[1:].numel())


def narrowed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a weight's moments in 8 bits, whatever they were in."""
    state = dict(state)
    for name, signed in CODES.items():
        if state[name].dtype != torch.uint8:
            moment = in_rows(state[name])
            codes, state[f"{name}_scale"] = quantized(moment if signed else moment.sqrt(), signed)
            state[name] = codes.view(state[name].shape)
    return state


def widened(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a weight's moments in fp32, whatever they were in."""
    state = dict(state)
    for name, signed in CODES.items():
        if state[name].dtype == torch.uint8:
            moment = dequantized(in_rows(state[name]), state.pop(f"{name}_scale"), signed)
            state[name] = (moment if signed else moment.square_()).view(state[name].shape)
    return state


class EightBitAdamW(SplitAdamW):
    """SplitAdamW with both moments of every large enough weight in 8 bits: state exp_avg, exp_avg_sq (its root), their
    scales exp_avg_scale, exp_avg_sq_scale, step, and for bf16 `low`.

    A step takes the moments out of 8 bits, makes AdamW's step in fp32, and puts the new ones back: what rounds is the
    memory between two steps, never the step.
    """

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        if not is_kept_in_8_bits(parameter):
            super()._update(parameter, group)
            return
        state = self.state[parameter]
        if not state:
            blocks = -(-parameter.shape[1:].numel() // BLOCK)
            state["step"] = torch.zeros(())
            for name, signed in CODES.items():
                zero = int((values_of(signed) == 0).nonzero())
                state[name] = torch.full(parameter.shape, zero, dtype=torch.uint8, device=parameter.device)
                state[f"{name}_scale"] = torch.zeros(parameter.shape[0], blocks, device=parameter.device)
        if parameter.dtype == torch.bfloat16 and "low" not in state:
            state["low"] = torch.zeros(parameter.shape, dtype=torch.int16, device=parameter.device)
        state["step"] += 1
        kernel = serves(parameter.device, parameter.dtype) and parameter.is_contiguous()
        (_step_by_kernel if kernel else _step)(parameter, state, group)


def _factors(state: dict[str, Tensor], group: dict[str, Any]) -> tuple[float, float, float]:
    """Return 1 - lr weight_decay, lr / (1 - beta1^step) and sqrt(1 - beta2^step)."""
    step, (beta1, beta2), lr = int(state["step"]), group["betas"], group["lr"]
    return 1 - lr * group["weight_decay"], lr / (1 - beta1**step), (1 - beta2**step) ** 0.5


def _step_by_kernel(parameter: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    kept = [state[name] for moment in CODES for name in (moment, f"{moment}_scale")]
    looked_up = [table for signed in CODES.values() for table in tables(signed, parameter.device)]
    low = state.get("low", 0)  # NULL
    grad = parameter.grad.contiguous()  # type: ignore[union-attr]
    call(
        "adamw_8bit", parameter, parameter, low, grad, *kept, *looked_up,
        parameter.shape[0], parameter.shape[1:].numel(), *_factors(state, group), *map(float, group["betas"]),
        float(group["eps"]),
    )  # fmt: skip


def _step(parameter: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    """What the kernel does, by torch's operations, for so many rows at a time."""
    shrink, size, unbias = _factors(state, group)
    beta1, beta2 = group["betas"]
    rows = {name: in_rows(tensor) for name, tensor in state.items() if tensor.ndim > 1}
    weights, grads = in_rows(parameter), in_rows(parameter.grad.contiguous())  # type: ignore[union-attr]
    at_once = max(1, (ROWS if parameter.device.type == "cpu" else ON_GPU) // weights.shape[1])
    for start in range(0, len(weights), at_once):
        part = slice(start, start + at_once)
        mean, root = (dequantized(rows[n][part], rows[f"{n}_scale"][part], signed) for n, signed in CODES.items())
        grad = grads[part].float()
        mean.lerp_(grad, 1 - beta1)
        root.square_().mul_(beta2).addcmul_(grad, grad, value=1 - beta2).sqrt_()
        wide = join(weights[part], rows["low"][part]) if "low" in rows else weights[part].float()
        wide.mul_(shrink).addcdiv_(mean, root / unbias + group["eps"], value=-size)
        if "low" in rows:
            weights[part], rows["low"][part] = split(wide)
        else:
            weights[part] = wide
        for (name, signed), moment in zip(CODES.items(), (mean, root), strict=True):
            rows[name][part], rows[f"{name}_scale"][part] = quantized(moment, signed)
