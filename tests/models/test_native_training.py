"""The CPU kernels of training and drawing against slow formulas in fp64, and against themselves by other ways."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ppo_pipeline.compute.native import library, low_rank
from ppo_pipeline.compute.native.attention import attend_end_to_end, attends
from ppo_pipeline.compute.native.operations import draw_tokens, serves
from ppo_pipeline.models.logprobs import token_logprobs
from ppo_pipeline.sampling.draw import draw

library.allow(True)
pytestmark = pytest.mark.skipif(not serves(torch.device("cpu"), torch.float32), reason="no C compiler here")

FORMATS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3}
# prefix, lengths, heads, key-value heads, size of a head
SHAPES = [(4, [5, 3, 9], 9, 3, 64), (0, [5, 30], 4, 4, 16), (31, [40, 2, 77], 8, 4, 128), (3, [1, 6], 6, 2, 80),
          (2, [1], 7, 1, 64), (0, [17], 5, 1, 32)]  # fmt: skip


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def starts_of(prefix: int, lengths: list[int]) -> Tensor:
    return torch.cat([torch.tensor([0, prefix]), prefix + torch.tensor(lengths).cumsum(0)])


def slow_attention(q: Tensor, k: Tensor, v: Tensor, prefix: int, lengths: list[int]) -> Tensor:
    """One sequence and one query at a time."""
    out = torch.zeros_like(q)
    groups = q.shape[1] // k.shape[1]
    spans = [(0, prefix, 0)]
    for length in lengths:
        spans.append((spans[-1][1], spans[-1][1] + length, prefix))
    rows = list(out)
    for start, end, before in spans:
        for t in range(start, end):
            seen = [*range(before), *range(start, t + 1)]
            keys, values = (x[seen].repeat_interleave(groups, 1) for x in (k, v))
            weights = torch.softmax((q[t] * keys).sum(-1) * q.shape[-1] ** -0.5, 0)
            rows[t] = (weights[..., None] * values).sum(0)
    return torch.stack(rows)


def tensors(shape: tuple, dtype: torch.dtype, padding: int = 3) -> tuple[list[Tensor], Tensor, Tensor]:
    prefix, lengths, heads, kv_heads, size = shape
    count = prefix + sum(lengths) + padding
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(count, h, size, generator=generator).to(dtype) for h in (heads, kv_heads, kv_heads, heads)]
    return made[:3], made[3], starts_of(prefix, lengths)


@FORMATS
@pytest.mark.parametrize("shape", SHAPES)
def test_attention_and_its_gradients_are_those_of_one_query_at_a_time(shape: tuple, dtype: torch.dtype) -> None:
    inputs, above, starts = tensors(shape, dtype)
    assert attends(inputs[0])
    leaves = [x.requires_grad_() for x in inputs]
    found = attend_end_to_end(*leaves, starts, shape[4] ** -0.5)
    gradients = torch.autograd.grad(found, leaves, above)
    wide = [x.detach().double().requires_grad_() for x in inputs]
    expected = slow_attention(*wide, *shape[:2])
    above = above.double()
    above[starts[-1] :] = 0
    for one, other in zip(gradients, torch.autograd.grad(expected, wide, above), strict=True):
        assert error(one, other) < TOLERANCE[dtype]
    assert error(found, expected) < TOLERANCE[dtype]
    assert not found[starts[-1] :].any()
    assert not any(gradient[starts[-1] :].any() for gradient in gradients)


@FORMATS
def test_attention_depends_on_neither_threads_nor_other_sequences(dtype: torch.dtype, threads: None) -> None:
    shape = SHAPES[0]
    inputs, above, starts = tensors(shape, dtype)
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        leaves = [x.detach().requires_grad_() for x in inputs]
        out = attend_end_to_end(*leaves, starts, 0.125)
        results.append([out, *torch.autograd.grad(out, leaves, above)])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    alone = [torch.cat([x[:4], x[12:21]]) for x in inputs]  # the prefix and the third sequence
    assert torch.equal(attend_end_to_end(*alone, starts_of(4, [9]), 0.125)[4:], results[0][0][12:21])


@FORMATS
@pytest.mark.parametrize("rank", [1, 5, 8, 16])
@pytest.mark.parametrize(("rows", "width"), [(1, 16), (50, 48), (17, 576)])
def test_products_of_a_low_rank(rows: int, width: int, rank: int, dtype: torch.dtype) -> None:
    torch.manual_seed(rank)
    x, y, a, low = torch.randn(rows, width), torch.randn(rows, width), torch.randn(rank, width), torch.randn(rows, rank)
    x, y = x.to(dtype), y.to(dtype)
    assert low_rank.fits(width) and not low_rank.fits(width + 8)
    assert error(low_rank.down(x, a, 0.5), 0.5 * x.double() @ a.double().T) < 1e-6
    assert error(low_rank.gradient(low, x, 2.0), 2 * low.double().T @ x.double()) < 1e-6
    assert error(low_rank.up(low, a, dtype), low.double() @ a.double()) < TOLERANCE[dtype]
    expected = y.double() + 3 * low.double() @ a.double()
    low_rank.add_up(y, low, a, 3.0)
    assert error(y, expected) < TOLERANCE[dtype]


@FORMATS
@pytest.mark.parametrize("vocabulary", [3, 256, 257, 5000])
def test_drawing_is_that_of_torch(vocabulary: int, dtype: torch.dtype) -> None:
    torch.manual_seed(vocabulary)
    logits = (torch.randn(64, vocabulary) * 4).to(dtype)
    logits[:, 1::3] = -torch.inf
    uniforms = torch.rand(64, dtype=torch.float64)
    uniforms[:2] = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    native = draw(logits, uniforms, 0.7)
    library.allow(False)
    try:
        other = draw(logits, uniforms, 0.7)
    finally:
        library.allow(True)
    assert (native.tokens != other.tokens).sum() <= 1  # where a uniform falls on the edge of two tokens
    same = native.tokens == other.tokens
    torch.testing.assert_close(native.logprobs[same], other.logprobs[same], atol=2e-6, rtol=2e-6)
    assert logits.gather(1, native.tokens[:, None]).isfinite().all()


def test_drawing_from_what_is_no_number_stays_within_the_vocabulary() -> None:
    tokens, logprobs = draw_tokens(torch.full((2, 300), torch.nan), torch.tensor([0.0, 0.9], dtype=torch.float64), 1.0)
    assert ((tokens >= 0) & (tokens < 300)).all()
    assert logprobs.isnan().all()


@pytest.mark.parametrize("by", ["logprobs", "entropy", "both"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_logprobs_and_entropy_of_many_and_excluded_tokens(dtype: torch.dtype, by: str) -> None:
    """A bias of -inf takes a token out: its probability and its gradient are 0, not NaN.

    fp32 is compared with fp64; bf16, whose logits are rounded, with torch's operations on the same logits.
    """
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(40, 32), torch.randn(9000, 32), torch.randn(9000)
    bias[::7] = -torch.inf
    targets = torch.randint(0, 1000, (40,)) * 7 + 1
    results = []
    for native, kind in ((True, dtype), (False, torch.float64 if dtype == torch.float32 else dtype)):
        library.allow(native)
        leaves = [x.to(dtype).to(kind).requires_grad_() for x in (hidden, weight)]
        logprobs, entropy = token_logprobs(*leaves, bias.to(dtype).to(kind), targets, 0.7, chunk=16)
        total = {"logprobs": logprobs, "entropy": entropy, "both": logprobs * 2 + entropy}[by].sum()
        results.append([logprobs.detach(), entropy.detach(), *torch.autograd.grad(total, leaves)])
    library.allow(True)
    limits = [1e-6, 1e-6, 2e-5, 2e-5] if dtype == torch.float32 else [1e-6, 1e-5, 4e-3, 4e-3]
    for found, expected, limit in zip(*results, limits, strict=True):
        assert error(found, expected) < limit
