"""The CPU kernels against formulas in fp64, and bit for bit against transformers where a formula rounds once."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from other_device import DEVICE, OtherDevice
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from ppo_pipeline.compute.native import library
from ppo_pipeline.compute.native.operations import attend_step, rms_norm, rotary, serves, silu_times

library.allow(True)
pytestmark = pytest.mark.skipif(not serves(torch.device("cpu"), torch.float32), reason="no C compiler here")

FORMATS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3}
EPS = 1e-5


def norm_formula(x: Tensor, weight: Tensor) -> Tensor:
    return weight * x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + EPS)


def silu_formula(gate: Tensor, up: Tensor) -> Tensor:
    return gate / (1 + torch.exp(-gate)) * up


def rotary_formula(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * cosine[..., None, :] + torch.cat([-b, a], -1) * sine[..., None, :]


def normal(*shape: int, dtype: torch.dtype, seed: int = 0, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


def turns(*shape: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cosines and sines that differ between the halves, as no model's do: each half has to take its own."""
    angles = torch.rand(shape, generator=torch.Generator().manual_seed(9)) * 6
    return angles.cos().to(dtype), angles.sin().to(dtype)


def same_to_rounding(found: Tensor, exact: Tensor) -> None:
    assert found.shape == exact.shape
    error = torch.linalg.vector_norm(found.double() - exact) / torch.linalg.vector_norm(exact)
    assert error < TOLERANCE[found.dtype], float(error)


def check(new: Callable[..., Tensor], formula: Callable[..., Tensor], inputs: list[Tensor], constants: int = 0) -> None:
    """Compare values and gradients; the last `constants` inputs have no gradient."""
    wide = [x.double().requires_grad_(i < len(inputs) - constants) for i, x in enumerate(inputs)]
    inputs = [x.detach().requires_grad_(w.requires_grad) for x, w in zip(inputs, wide, strict=True)]
    exact, found = formula(*wide), new(*inputs)
    assert found.dtype == inputs[0].dtype
    same_to_rounding(found.detach(), exact.detach())
    with torch.no_grad():
        assert torch.equal(new(*inputs), found)
    grad = normal(*found.shape, dtype=found.dtype, seed=8)
    found.backward(grad)
    exact.backward(grad.double())
    for narrow, w in zip(inputs, wide, strict=True):
        if w.requires_grad:
            assert narrow.grad is not None and w.grad is not None
            same_to_rounding(narrow.grad, w.grad)


SHAPES = pytest.mark.parametrize("shape", [(1, 2), (1, 7), (1, 576), (3, 33), (2, 5, 64), (17, 1000), (1, 9000)])


@FORMATS
@SHAPES
def test_rms_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    inputs = [normal(*shape, dtype=dtype), normal(shape[-1], dtype=dtype, seed=1)]
    check(lambda x, w: rms_norm(x, w, EPS), norm_formula, inputs)
    check(lambda x, w: rms_norm(x, w, EPS), norm_formula, inputs, constants=1)  # as with LoRA: a fixed weight


@FORMATS
@SHAPES
def test_silu_times(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check(silu_times, silu_formula, [normal(*shape, dtype=dtype, scale=4), normal(*shape, dtype=dtype, seed=1)])


@FORMATS
@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 3, 14), (5, 1, 66), (2, 9, 4, 64), (1, 50, 3, 80), (40, 5, 128)])
def test_rotary(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    cosine, sine = turns(*shape[:-2], shape[-1], dtype=dtype)
    check(rotary, rotary_formula, [normal(*shape, dtype=dtype), cosine, sine], constants=2)


@FORMATS
def test_inputs_and_gradients_need_not_be_contiguous(dtype: torch.dtype) -> None:
    def transposed(*shape: int, seed: int = 0) -> Tensor:
        found = normal(*shape, dtype=dtype, seed=seed).transpose(0, 1)
        assert not found.is_contiguous()
        return found

    operations: list[tuple[Callable[..., Tensor], list[Tensor], list[Tensor]]] = [
        (lambda x, w: rms_norm(x, w, EPS), [transposed(33, 5)], [normal(33, dtype=dtype)]),
        (silu_times, [transposed(33, 5), transposed(33, 5, seed=1)], []),
        (silu_times, [transposed(33, 5), normal(5, 33, dtype=dtype)], []),
        (rotary, [transposed(4, 7, 32)], [*turns(7, 32, dtype=dtype)]),
    ]
    for new, inputs, constants in operations:
        results = []
        for copy in (False, True):
            given = [(x.contiguous() if copy else x).detach().requires_grad_() for x in inputs]
            out = new(*given, *constants)
            grad = normal(*out.shape[::-1], dtype=dtype, seed=3).permute(*range(out.ndim)[::-1])
            out.backward(grad.contiguous() if copy else grad)
            results.append([out.detach(), *(x.grad for x in given)])
        for plain, copied in zip(*results, strict=True):
            assert torch.equal(plain, copied)


def same_numbers(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-2, atol=1e-36)


@FORMATS
def test_what_is_no_number_or_infinite_stays_so_as_in_torch(dtype: torch.dtype) -> None:
    inf, nan = math.inf, math.nan
    extreme = [nan, inf, -inf, 88.0, -88.0, -87.4, -89.0, -104.0, 1e30, -1e30, 3e38, -3e38, 0.0, -0.0, 1e-30]
    for count in (1, 16):  # a vector of the processor, or what is left
        for number in extreme:
            found, expected = (torch.full((count,), number, dtype=dtype).requires_grad_() for _ in range(2))
            up = torch.ones(count, dtype=dtype)
            ours, theirs = silu_times(found, up), F.silu(expected) * up
            same_numbers(ours, theirs)
            ours.sum().backward()
            theirs.sum().backward()
            assert found.grad is not None and expected.grad is not None
            same_numbers(found.grad, expected.grad)
    assert silu_times(torch.zeros(1, dtype=dtype), torch.tensor([inf], dtype=dtype)).isnan().all()
    norm = LlamaRMSNorm(3, EPS).to(dtype).requires_grad_(False)
    for row in ([1, inf, 2], [1, -inf, 2], [1, nan, 2], [3e38, 1, 1], [2e19, 2e19, 1], [0, 0, 0], [1e-30, 0, 0]):
        x = torch.tensor([row, [1.0, 2.0, 3.0]], dtype=dtype)
        same_numbers(rms_norm(x, norm.weight, EPS), norm(x))
    x = torch.tensor([[[1.0, inf, nan, -inf]]], dtype=dtype)
    cosine, sine = turns(1, 4, dtype=dtype)
    same_numbers(rotary(x, cosine, sine), rotary_formula(x, cosine, sine))


def test_the_exponential_is_as_good_as_its_format() -> None:
    """Within 4 units in the last place of fp32, each number and not their norm alone."""
    gate = torch.linspace(-80, 80, 300_001)
    found, exact = silu_times(gate, torch.ones_like(gate)), F.silu(gate.double())
    assert ((found - exact) / exact).nan_to_num().abs().max() < 4 * 2**-23


def test_every_bf16_number_is_rounded_as_torch_does() -> None:
    """silu(g) u rounds twice: each of the 65,536 numbers as a gate, and as what a sum or product is rounded from."""
    gate = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    gate = gate[gate.abs() < 80]
    for seed in range(4):
        up = normal(len(gate), dtype=torch.bfloat16, seed=seed)
        found, expected = silu_times(gate, up), F.silu(gate) * up
        assert (found.view(torch.int16) != expected.view(torch.int16)).sum() <= len(gate) / 10_000
    ties = torch.tensor([1.0, 1 + 2**-7, 1 + 2**-6, 1 + 3 * 2**-7])  # times 1.5 lies halfway between two bf16 numbers
    x, weight = torch.ones(1, 4, dtype=torch.bfloat16), ties.to(torch.bfloat16)
    factor = torch.tensor([[1.5, 1.5, 1.5, 1.5]], dtype=torch.bfloat16)
    cosine, sine = weight[None], torch.zeros(1, 4, dtype=torch.bfloat16)
    assert torch.equal(rotary(factor[None], cosine, sine)[0], factor * weight)
    assert torch.equal(rms_norm(x, weight, 0.0), x * weight)


@pytest.mark.parametrize("size", [64, 128, 30])
def test_bf16_is_transformers_bit_for_bit(size: int) -> None:
    x = normal(2, 40, 6, size, dtype=torch.bfloat16)
    cosine, sine = turns(2, 40, size // 2, dtype=torch.bfloat16)
    cosine, sine = torch.cat([cosine, cosine], -1), torch.cat([sine, sine], -1)
    expected, _ = apply_rotary_pos_emb(x.transpose(1, 2), x.transpose(1, 2), cosine, sine)
    assert torch.equal(rotary(x, cosine, sine), expected.transpose(1, 2))
    norm = LlamaRMSNorm(size, EPS).to(torch.bfloat16).requires_grad_(False)
    norm.weight.copy_(normal(size, dtype=torch.bfloat16, seed=1))
    assert (rms_norm(x, norm.weight, EPS) != norm(x)).sum() <= x.numel() / 10_000


def step(size: int, groups: int, dtype: torch.dtype, rows: int = 5, kv_heads: int = 2) -> dict[str, Any]:
    """Return what attend_step takes, for rows at different positions, with two slots more than rows."""
    capacity = 41
    cosine, sine = turns(rows, size, dtype=dtype)
    cached = [normal(rows + 2, kv_heads, capacity, size, dtype=dtype, seed=seed) for seed in (4, 5)]
    return {
        "q": normal(rows, kv_heads * groups, size, dtype=dtype, seed=1, scale=2),
        "k": normal(rows, kv_heads, size, dtype=dtype, seed=2),
        "v": normal(rows, kv_heads, size, dtype=dtype, seed=3),
        "cosine": cosine, "sine": sine, "positions": torch.tensor([0, 40, 1, 17, 32, *range(3, rows)])[:rows],
        "keys": cached[0], "values": cached[1], "scale": size**-0.5,
    }  # fmt: skip


@FORMATS
@pytest.mark.parametrize("size", [16, 64, 80, 128])
@pytest.mark.parametrize("groups", [1, 2, 3, 4, 5, 7])
def test_attend_step(size: int, groups: int, dtype: torch.dtype) -> None:
    given = step(size, groups, dtype)
    keys, values = given["keys"].clone(), given["values"].clone()
    found = attend_step(**given)
    turned, key = (rotary(given[name], given["cosine"], given["sine"]) for name in "qk")
    for row, position in enumerate(given["positions"].tolist()):
        keys[row, :, position], values[row, :, position] = key[row], given["v"][row]
        count = position + 1
        exact = F.scaled_dot_product_attention(
            turned[row, :, None].double(), keys[row, :, :count].double(), values[row, :, :count].double(),
            scale=given["scale"], enable_gqa=True,
        )  # fmt: skip
        same_to_rounding(found[row], exact[:, 0])
    assert torch.equal(given["keys"], keys)  # other positions and slots are as they were
    assert torch.equal(given["values"], values)


@FORMATS
def test_attention_with_extreme_scores_is_that_of_torch(dtype: torch.dtype) -> None:
    """Scores far apart leave the largest alone; a key that is no number makes its own row so, and no other."""
    given = step(64, 3, dtype)
    given["q"] *= 1000
    found = attend_step(**given)
    assert found.isfinite().all()
    assert torch.equal(found[0], given["v"][0].repeat_interleave(3, 0))  # position 0 sees itself alone
    given["keys"][1, 0, 7] = math.nan
    again = attend_step(**given)
    assert again[1, :3].isnan().all()
    again[1, :3] = found[1, :3]
    assert torch.equal(again, found)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@FORMATS
def test_no_bit_depends_on_threads_or_on_the_other_rows(dtype: torch.dtype, threads: Callable[[int], None]) -> None:
    rows, width = 37, 1003
    cosine, sine = turns(rows, 64, dtype=dtype)
    weight, grad = normal(width, dtype=dtype, seed=1), normal(rows, width, dtype=dtype, seed=2)
    x, up, heads = (normal(rows, *rest, dtype=dtype, seed=i) for i, rest in enumerate([(width,), (width,), (9, 64)]))

    def gradients(new: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
        given = [x.detach().requires_grad_() for x in inputs]
        out = new(*given)
        return [out.detach(), *torch.autograd.grad(out, given, grad)]

    def all_of(rows: slice) -> list[Tensor]:
        turn, step_rows = (cosine[rows], sine[rows]), step(64, 3, dtype, rows=len(x))
        row_wise = {
            n: t[rows].clone() for n, t in step_rows.items() if isinstance(t, Tensor) and n not in ("keys", "values")
        }
        cached = {n: step_rows[n][: len(x)][rows].clone() for n in ("keys", "values")}
        return [
            *gradients(lambda x: rms_norm(x, weight, EPS), [x[rows]], grad[rows]),
            *gradients(silu_times, [x[rows], up[rows]], grad[rows]),
            *gradients(lambda x: rotary(x, *turn), [heads[rows]], heads[rows]),
            attend_step(**row_wise, **cached, scale=0.125),
        ]

    threads(1)
    expected = all_of(slice(None))
    for count in (2, 3):
        threads(count)
        for found, one in zip(all_of(slice(None)), expected, strict=True):
            assert torch.equal(found, one)
        for i in (0, 1, 17, rows - 1):
            for alone, one in zip(all_of(slice(i, i + 1)), expected, strict=True):
                assert torch.equal(alone[0], one[i])


def test_a_gpu_turns_by_the_same_formula() -> None:
    """On a stand-in for one: forward and gradient."""
    x, grad = (normal(2, 7, 3, 32, dtype=torch.float32, seed=seed) for seed in (0, 1))
    cosine, sine = turns(7, 32, dtype=torch.float32)
    wanted = x.clone().requires_grad_()
    expected = rotary_formula(wanted, cosine, sine)
    expected.backward(grad)
    with OtherDevice("cuda").on():
        there = x.to(DEVICE).requires_grad_()
        found = rotary(there, cosine[None].expand(2, -1, -1).to(DEVICE), sine[None].expand(2, -1, -1).to(DEVICE))
        found.backward(grad.to(DEVICE))
        assert there.grad is not None and wanted.grad is not None
        torch.testing.assert_close(found.detach().cpu(), expected.detach())
        torch.testing.assert_close(there.grad.cpu(), wanted.grad)
