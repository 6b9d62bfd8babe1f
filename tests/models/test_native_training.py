"""The CPU kernels of training and drawing against slow formulas in fp64, and against themselves by other ways."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ppo_pipeline.compute.native import library, low_rank
from ppo_pipeline.compute.native.attention import Branches, attend_end_to_end, attends, branches_of
from ppo_pipeline.compute.native.operations import draw_tokens, serves
from ppo_pipeline.models.logprobs import token_logprobs
from ppo_pipeline.sampling.draw import draw

library.allow(True)
pytestmark = pytest.mark.skipif(not serves(torch.device("cpu"), torch.float32), reason="no C compiler here")

FORMATS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3}
# tokens and parent of each branch, heads, key-value heads, size of a head
SHAPES = [
    ([4, 5, 3, 9], [-1, 0, 0, 0], 9, 3, 64),  # sequences behind a prefix
    ([0, 5, 30], [-1, 0, 0], 4, 4, 16),
    ([31, 40, 2, 77], [-1, 0, 0, 0], 8, 4, 128),
    ([3, 1, 6], [-1, 0, 0], 6, 2, 80),
    ([2, 1], [-1, 0], 7, 1, 64),
    ([0, 17], [-1, 0], 5, 1, 32),
    ([3, 6, 4, 1, 5, 7, 2, 4], [-1, 0, 1, 2, 2, 1, 0, -1], 9, 3, 64),  # a tree three deep, and one beside it
    ([1, 1, 1, 20, 6], [-1, 0, 1, 2, 2], 4, 2, 32),
]


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def slow_attention(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], parents: list[int]) -> Tensor:
    """One branch and one query at a time."""
    out = torch.zeros_like(q)
    groups = q.shape[1] // k.shape[1]
    ends = torch.tensor(lengths).cumsum(0).tolist()
    above: list[list[int]] = []
    rows = list(out)
    for length, end, parent in zip(lengths, ends, parents, strict=True):
        own = range(end - length, end)
        before = above[parent] if parent >= 0 else []
        above.append([*before, *own])
        for t in own:
            seen = [*before, *range(own[0], t + 1)]
            keys, values = (x[seen].repeat_interleave(groups, 1) for x in (k, v))
            weights = torch.softmax((q[t] * keys).sum(-1) * q.shape[-1] ** -0.5, 0)
            rows[t] = (weights[..., None] * values).sum(0)
    return torch.stack(rows)


def tensors(shape: tuple, dtype: torch.dtype, padding: int = 3) -> tuple[list[Tensor], Tensor, Branches]:
    lengths, parents, heads, kv_heads, size = shape
    count = sum(lengths) + padding
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(count, h, size, generator=generator).to(dtype) for h in (heads, kv_heads, kv_heads, heads)]
    return made[:3], made[3], branches_of(lengths, parents)


@FORMATS
@pytest.mark.parametrize("shape", SHAPES)
def test_attention_and_its_gradients_are_those_of_one_query_at_a_time(shape: tuple, dtype: torch.dtype) -> None:
    inputs, above, branches = tensors(shape, dtype)
    assert attends(inputs[0])
    leaves = [x.requires_grad_() for x in inputs]
    found = attend_end_to_end(*leaves, branches, shape[4] ** -0.5)
    end = sum(shape[0])
    gradients = torch.autograd.grad(found, leaves, above)
    wide = [x.detach().double().requires_grad_() for x in inputs]
    expected = slow_attention(*wide, *shape[:2])
    above = above.double()
    above[end:] = 0
    for one, other in zip(gradients, torch.autograd.grad(expected, wide, above), strict=True):
        assert error(one, other) < TOLERANCE[dtype]
    assert error(found, expected) < TOLERANCE[dtype]
    assert not found[end:].any()
    assert not any(gradient[end:].any() for gradient in gradients)


@FORMATS
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[6]], ids=["prefix", "tree"])
def test_attention_depends_on_neither_threads_nor_other_sequences(
    shape: tuple, dtype: torch.dtype, threads: None
) -> None:
    inputs, above, branches = tensors(shape, dtype)
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        leaves = [x.detach().requires_grad_() for x in inputs]
        out = attend_end_to_end(*leaves, branches, 0.125)
        results.append([out, *torch.autograd.grad(out, leaves, above)])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    for branch, length in enumerate(shape[0]):
        *before, own = branches.above(branch)
        alone = [torch.cat([x[place] for place in (*before, own)]) for x in inputs]
        assert torch.equal(
            attend_end_to_end(*alone, branches_of([len(alone[0])], [-1]), 0.125)[-length:], results[0][0][own]
        )


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
