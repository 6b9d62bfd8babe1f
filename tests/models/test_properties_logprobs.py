"""Properties of the chunked log probabilities, over more tokens than a chunk and a part of one have."""

import math

import pytest
import torch
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from ppo_pipeline.models.logprobs import ROWS, _logit_gradient, _parts, token_logprobs

SEEDS = st.integers(0, 10**6)
COUNTS = st.integers(1, 5 * ROWS + 3)


def case(
    seed: int, count: int, bias: bool = True
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Return states, a head of 11 tokens and targets, in float64."""
    generator = torch.Generator().manual_seed(seed)
    hidden, weight, b = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (count, 11, 11))
    targets = torch.randint(0, 11, (count,), generator=generator)
    return hidden, weight, b[:, 0] if bias else None, targets


def with_gradients(hidden, weight, bias, targets, *options) -> list[torch.Tensor]:
    """Return both results and the gradients of a sum in which every token has its own weights."""
    leaves = [t.clone().requires_grad_() for t in (hidden, weight, bias) if t is not None]
    found = token_logprobs(leaves[0], leaves[1], leaves[2] if bias is not None else None, targets, *options)
    own = torch.linspace(-1, 2, len(targets), dtype=torch.float64)
    return [*found, *torch.autograd.grad((own * found[0] + own.flip(0) * found[1]).sum(), leaves)]


@examples(30)
@given(SEEDS, COUNTS, st.integers(1, 90), st.floats(0.2, 3), st.booleans())
def test_the_chunk_changes_neither_results_nor_gradients(seed, count, chunk, temperature, bias) -> None:
    inputs = case(seed, count, bias)
    whole = with_gradients(*inputs, temperature, count)
    for found, expected in zip(with_gradients(*inputs, temperature, chunk), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    alone, nothing = token_logprobs(*inputs, temperature, chunk, with_entropy=False)
    torch.testing.assert_close(alone, whole[0].detach(), rtol=1e-10, atol=1e-10)
    assert nothing.isnan().all()


@examples(30)
@given(SEEDS, COUNTS, st.floats(0.2, 3))
def test_tokens_in_another_order_and_more_of_them(seed: int, count: int, temperature: float) -> None:
    hidden, weight, bias, targets = case(seed, count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    found = token_logprobs(hidden, weight, bias, targets, temperature, 20)
    shuffled = token_logprobs(hidden[order], weight, bias, targets[order], temperature, 20)
    more = token_logprobs(torch.cat([hidden, 9 * hidden]), weight, bias, targets.repeat(2), temperature, 20)
    for one, other, longer in zip(found, shuffled, more, strict=True):
        torch.testing.assert_close(one[order], other, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(one, longer[:count], rtol=1e-12, atol=1e-12)


@examples(30)
@given(SEEDS, COUNTS, st.floats(0.2, 3), st.floats(-50, 50))
def test_bounds_the_level_of_the_logits_and_the_temperature(seed, count, temperature, level) -> None:
    hidden, weight, bias, targets = case(seed, count)
    logprobs, entropy = token_logprobs(hidden, weight, bias, targets, temperature)
    assert (logprobs <= 0).all()
    assert ((entropy >= 0) & (entropy <= math.log(11) + 1e-12)).all()
    raised = token_logprobs(hidden, weight, bias + level, targets, temperature)
    cooled = token_logprobs(hidden / temperature, weight, bias / temperature, targets)
    for found in (raised, cooled):
        torch.testing.assert_close(found[0], logprobs, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found[1], entropy, rtol=1e-9, atol=1e-9)


@examples(15)
@given(SEEDS, st.integers(1, 40))
def test_the_probabilities_of_all_tokens_sum_to_1_and_make_the_entropy(seed: int, count: int) -> None:
    hidden, weight, bias, _ = case(seed, count)
    every = torch.stack([token_logprobs(hidden, weight, bias, torch.full((count,), t), 0.7, 7)[0] for t in range(11)])
    torch.testing.assert_close(every.exp().sum(0), torch.ones(count, dtype=torch.float64))
    entropy = token_logprobs(hidden, weight, bias, torch.zeros(count, dtype=torch.long), 0.7, 7)[1]
    torch.testing.assert_close(-(every.exp() * every).sum(0), entropy)


@pytest.mark.parametrize("count", [1, 300])
def test_number_formats_of_results_and_gradients(count: int) -> None:
    """bf16 gives fp32 results and bf16 gradients, near those of float64, in one chunk of 256 and in several."""
    inputs = [t.bfloat16() if t.is_floating_point() else t for t in case(3, count)]
    exact = with_gradients(*(t.double() if t.is_floating_point() else t for t in inputs), 0.8)
    leaves = [t.clone().requires_grad_() for t in inputs[:3]]
    logprobs, entropy = token_logprobs(*leaves, inputs[3], 0.8)
    assert logprobs.dtype == entropy.dtype == torch.float32
    own = torch.linspace(-1, 2, count)
    gradients = torch.autograd.grad((own * logprobs + own.flip(0) * entropy).sum(), leaves)
    assert all(g.dtype == torch.bfloat16 for g in gradients)
    for found, expected in zip([logprobs, entropy, *gradients], exact, strict=True):
        error = (found.double() - expected).norm() / expected.norm()
        assert error < 0.02, error


def test_gradients_of_many_chunks_are_added_up_in_fp32() -> None:
    """1500 equal tokens, each its own chunk: a sum in bf16 would stand still after 256 of them."""
    hidden, weight, bias, targets = case(5, 1)
    leaves = [t.bfloat16().requires_grad_() for t in (weight, bias)]
    logprobs, entropy = token_logprobs(hidden.bfloat16().repeat(1500, 1), *leaves, targets.repeat(1500), 1.0, 1)
    found = torch.autograd.grad((logprobs + entropy).sum(), leaves)
    alone = token_logprobs(hidden.bfloat16(), *leaves, targets, 1.0, 1)
    for many, one in zip(found, torch.autograd.grad((alone[0] + alone[1]).sum(), leaves), strict=True):
        torch.testing.assert_close(many.float(), 1500 * one.float(), rtol=0.01, atol=0)


@pytest.mark.parametrize(("device", "sizes"), [("cpu", [ROWS, ROWS, 3]), ("meta", [2 * ROWS + 3])])
def test_logits_are_worked_on_in_the_same_little_room_or_all_at_once_off_the_cpu(device: str, sizes: list[int]) -> None:
    """Fresh memory costs as much as the work; on a GPU, here a device without memory, few large steps are quick."""
    logits = torch.zeros(2 * ROWS + 3, 5, device=device)
    rooms = set()
    first = 100
    for size, (part, rows, one, other) in zip(sizes, _parts(logits, 100, torch.float32), strict=True):
        assert (rows.start, rows.stop) == (first, first + size)
        assert part.shape == one.shape == other.shape == (size, 5)
        assert one.device == other.device == logits.device and one.dtype == torch.float32
        assert one.untyped_storage().nbytes() == 2 * max(sizes) * 5 * 4
        rooms.add((one.untyped_storage().data_ptr(), other.untyped_storage().data_ptr()))
        first += size
    assert len(rooms) == 1
    assert not list(_parts(logits[:0], 0, torch.float32))


@pytest.mark.parametrize("with_entropy", [True, False])
def test_the_gradient_of_the_logits_takes_no_memory_of_its_own(with_entropy: bool) -> None:
    scaled, other = torch.randn(2, 4, 5)
    ones = torch.ones(4)
    found = _logit_gradient(scaled, other, torch.arange(4), ones, ones, ones if with_entropy else None)
    assert found.data_ptr() == (scaled if with_entropy else other).data_ptr()
