"""AdamW whose moments are kept in 8 bits: dynamic codes, block by block (Dettmers et al. 2021, arXiv:2110.02861).

A block of 256 numbers x has one scale s = max |x| in fp32, and for each x the code of one of 256 values in [-1, 1]
near x / s; the values are bitsandbytes' (`create_dynamic_map`), of seven decades, the upper ones finer. Three things
differ from there. The second moment v is kept as its root, whose decades are half as many, and no root above 0 becomes
0: a weight with a first moment is never divided by eps alone. The root's code is the lower or the upper neighbour, each
the likelier the nearer, by a number from the bits of x / s and the step: a root shrinks by 0.05 % a step (beta2 0.999),
half a code is 0.35 % and more, and the nearest code would be the old one for ever. And a block never goes on into
another row, so that the rows of a weight may be shared out (sharded.py), and a token that is rarely seen has a scale of
its own.
"""

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..compute.native.operations import call, serves
from .split_adamw import SplitAdamW, join, split

BLOCK = 256
SHORTEST = 64  # rows of fewer numbers, and vectors, keep their moments in fp32: norms, biases, B of a small rank
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
    """Return the codes' values; the code of the lowest fp32 number with given upper 16 bits; the border above each.

    A number above a code's border has a higher one. signed: borders lie halfway between two values; else they are the
    next values. Between two numbers with the same upper 16 bits lies one border at most, so that one look and one
    comparison find the code.
    """
    values = values_of(signed)
    borders = (values[1:] + values[:-1]) / 2 if signed else values[1:]
    upper = torch.arange(1 << 16, dtype=torch.int32)
    negative = (upper >= 1 << 15).int()  # whose lowest is the farthest from 0
    lowest = ((upper << 16) + negative * 0xFFFF).view(torch.float32)
    floor = torch.bucketize(lowest.nan_to_num(), borders).to(torch.uint8)
    return values.to(device), floor.to(device), torch.cat([borders, torch.tensor([float("inf")])]).to(device)


def in_blocks(numbers: Tensor) -> Tensor:
    """Return (rows, columns) as (rows, blocks, 256), filled up with zeros."""
    rows, columns = numbers.shape
    return pad(numbers, (0, -columns % BLOCK)).view(rows, -(-columns // BLOCK), BLOCK)


def quantized(numbers: Tensor, signed: bool, step: int = 0) -> tuple[Tensor, Tensor]:
    """Return codes (rows, columns), uint8, and scales (rows, blocks) of fp32 numbers (rows, columns).

    signed: the nearest codes, ties go down; else one of both neighbours, by `step`.
    """
    values, floor, borders = tables(signed, numbers.device)
    blocks = in_blocks(numbers)
    scales = blocks.abs().amax(-1)
    scaled = (blocks / scales.clamp_min(SMALLEST)[..., None]).flatten()
    bits = scaled.view(torch.int32)
    codes = floor.index_select(0, (bits >> 16) & 0xFFFF)
    codes += scaled > borders.index_select(0, codes.int())
    if not signed:
        low, high = values.index_select(0, codes.int()), values.index_select(0, codes.int().add_(1).clamp_max_(255))
        codes += dither(bits, step) * (high - low) < scaled - low
        codes.clamp_min_((blocks.flatten() > 0).to(torch.uint8))
    return in_rows(codes.view(blocks.shape))[:, : numbers.shape[1]].contiguous(), scales


def dither(bits: Tensor, step: int) -> Tensor:
    """Return numbers of [0, 1) that look random, from those of `bits` (int32) and the step: MurmurHash3's finalizer.

    They depend on no place, so that blocks and rows may be anywhere.
    """
    h = (bits.long() & 0xFFFFFFFF) ^ (step * 0x9E3779B9 & 0xFFFFFFFF)
    h = (h ^ (h >> 16)) * 0x85EBCA6B & 0xFFFFFFFF
    h = (h ^ (h >> 13)) * 0xC2B2AE35 & 0xFFFFFFFF
    return ((h ^ (h >> 16)) >> 8) * 2.0**-24


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


def parts(rows: Tensor) -> Iterator[slice]:
    """Yield the rows of a matrix so many at a time: what is made of each for a moment is small."""
    at_once = max(1, (ROWS if rows.device.type == "cpu" else ON_GPU) // rows.shape[1])
    for start in range(0, len(rows), at_once):
        yield slice(start, start + at_once)


def empty_state(shape: torch.Size, device: torch.device) -> dict[str, Tensor]:
    """Return the moments of a new weight: all 0."""
    state = {}
    for name, signed in CODES.items():
        zero = int((values_of(signed) == 0).nonzero())
        state[name] = torch.full(shape, zero, dtype=torch.uint8, device=device)
        state[f"{name}_scale"] = torch.zeros(shape[0], -(-shape[1:].numel() // BLOCK), device=device)
    return state


def narrowed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a weight's moments in 8 bits, whatever they were in."""
    if state["exp_avg"].dtype == torch.uint8:
        return state
    found = state | empty_state(state["exp_avg"].shape, state["exp_avg"].device)
    for name, signed in CODES.items():
        moment, codes = in_rows(state[name]), in_rows(found[name])
        for part in parts(moment):
            numbers = moment[part] if signed else moment[part].sqrt()
            codes[part], found[f"{name}_scale"][part] = quantized(numbers, signed)
    return found


def widened(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a weight's moments in fp32, whatever they were in."""
    if state["exp_avg"].dtype != torch.uint8:
        return state
    found = dict(state)
    for name, signed in CODES.items():
        codes, scales = in_rows(state[name]), found.pop(f"{name}_scale")
        found[name] = torch.empty(state[name].shape, device=codes.device)
        moment = in_rows(found[name])
        for part in parts(codes):
            numbers = dequantized(codes[part], scales[part], signed)
            moment[part] = numbers if signed else numbers.square_()
    return found


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
            state |= {"step": torch.zeros(()), **empty_state(parameter.shape, parameter.device)}
        if parameter.dtype == torch.bfloat16 and "low" not in state:
            state["low"] = torch.zeros(parameter.shape, dtype=torch.int16, device=parameter.device)
        state["step"] += 1
        (_step_by_kernel if serves(parameter.device, parameter.dtype) else _step)(parameter, state, group)


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
        "adamw_8bit", parameter, parameter, low, grad, *kept, *looked_up, *in_rows(parameter).shape, int(state["step"]),
        *_factors(state, group), *map(float, (*group["betas"], group["eps"])),
    )  # fmt: skip


def _step(parameter: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    """What the kernel does, by torch's operations, for so many rows at a time."""
    shrink, size, unbias = _factors(state, group)
    beta1, beta2 = group["betas"]
    rows = {name: in_rows(tensor) for name, tensor in state.items() if tensor.ndim > 1}
    weights, grads = in_rows(parameter), in_rows(parameter.grad.contiguous())  # type: ignore[union-attr]
    for part in parts(weights):
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
            rows[name][part], rows[f"{name}_scale"][part] = quantized(moment, signed, int(state["step"]))
