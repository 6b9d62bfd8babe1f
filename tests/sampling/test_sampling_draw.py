"""Drawing tokens: the inverse CDF against a slow loop, and random streams."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ppo_pipeline.sampling.draw import draw, pick_greedy
from ppo_pipeline.sampling.streams import uniforms

pytestmark = pytest.mark.usefixtures("either_kernels")


def slow_draw(logits: torch.Tensor, uniform: float, temperature: float) -> int:
    probabilities = torch.softmax(logits.double() / temperature, -1).tolist()
    total = 0.0
    for token, p in enumerate(probabilities):
        total += p
        if total > uniform:
            return token
    return max(i for i, p in enumerate(probabilities) if p > 0)


@pytest.mark.parametrize("vocabulary", [2, 255, 256, 257, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_equals_a_slow_inverse_cdf(vocabulary: int, temperature: float) -> None:
    torch.manual_seed(vocabulary)
    logits = torch.randn(64, vocabulary) * 3
    numbers = torch.rand(64, dtype=torch.float64)
    tokens, logprobs, _ = draw(logits, numbers, temperature)
    assert tokens.tolist() == [slow_draw(row, u, temperature) for row, u in zip(logits, numbers.tolist(), strict=True)]
    expected = torch.log_softmax(logits / temperature, -1).gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53])
def test_a_token_without_probability_is_never_drawn(uniform: float) -> None:
    logits = torch.full((1, 700), float("-inf"))
    logits[0, [3, 300, 301, 600]] = torch.tensor([0.0, 1.0, 0.5, -20.0])
    token = draw(logits, torch.tensor([uniform], dtype=torch.float64), 1.0)[0].item()
    assert token in {0.0: [3], 0.5: [300], 1 - 2**-53: [301, 600]}[uniform]


def test_greedy_is_the_mode_with_its_logprob() -> None:
    torch.manual_seed(0)
    logits = torch.randn(9, 77)
    tokens, logprobs, _ = pick_greedy(logits, 1.0)
    assert torch.equal(tokens, logits.argmax(-1))
    torch.testing.assert_close(logprobs, torch.log_softmax(logits, -1).amax(-1))


def test_a_stream_depends_on_seed_and_sample_alone() -> None:
    first = uniforms(1, "r001-a-0", 1000)
    assert np.array_equal(first, uniforms(1, "r001-a-0", 1000))
    assert np.array_equal(first[:10], uniforms(1, "r001-a-0", 10))
    others = [uniforms(2, "r001-a-0", 1000), uniforms(1, "r002-a-0", 1000), uniforms(1, "r001-a-1", 1000)]
    for other in others:
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.15
    assert first.min() >= 0
    assert first.max() < 1
    assert first.mean() == pytest.approx(0.5, abs=0.05)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 700), st.floats(0, 1, exclude_max=True), st.floats(0.1, 30))
def test_the_token_is_where_the_cdf_passes_the_uniform(
    seed: int, vocabulary: int, uniform: float, spread: float
) -> None:
    """Half of the logits are -inf; one never is. The token has probability, and the CDF passes u at it."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, vocabulary, generator=generator) * spread
    logits[torch.rand(1, vocabulary, generator=generator) < 0.5] = float("-inf")
    logits[0, seed % vocabulary] = 0.0
    token = draw(logits, torch.tensor([uniform], dtype=torch.float64), 1.0)[0].item()
    probabilities = torch.softmax(logits[0].double(), -1)
    assert probabilities[token] > 0
    assert probabilities[:token].sum() <= uniform + 1e-6
    assert probabilities[: token + 1].sum() >= uniform - 1e-6


@pytest.mark.parametrize("vocabulary", [6, 300])
def test_frequencies_are_those_of_the_softmax(vocabulary: int) -> None:
    """Pearson's chi-square over 6 tokens, here spread over the vocabulary; 20.5 is the 0.999 quantile for 5 degrees."""
    probabilities = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.07, 0.03], dtype=torch.float64)
    places = torch.linspace(0, vocabulary - 1, 6).long()
    logits = torch.full((vocabulary,), float("-inf"))
    logits[places] = 2.0 * probabilities.log().float()  # at temperature 2 these probabilities again
    count = 20_000
    numbers = torch.from_numpy(np.random.default_rng(1).random(count))
    tokens, _, _ = draw(logits.expand(count, -1), numbers, 2.0)
    found = torch.bincount(tokens, minlength=vocabulary)
    assert found[places].sum() == count
    expected = count * probabilities
    assert ((found[places] - expected) ** 2 / expected).sum().item() < 20.5


def test_a_row_s_token_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    logits, numbers = torch.randn(8, 300) * 3, torch.rand(8, dtype=torch.float64)
    tokens, logprobs, _ = draw(logits, numbers, 0.7)
    for i in range(8):
        token, logprob, _ = draw(logits[i : i + 1], numbers[i : i + 1], 0.7)
        assert token.item() == tokens[i].item()
        assert logprob.item() == pytest.approx(logprobs[i].item(), abs=1e-5)


def test_bf16_logits_are_computed_in_fp32() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 300).bfloat16()
    expected = torch.log_softmax(logits.float() / 0.7, -1)
    tokens, logprobs, _ = draw(logits, torch.rand(5, dtype=torch.float64), 0.7)
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs, expected.gather(1, tokens[:, None])[:, 0], atol=1e-5, rtol=1e-5)
    tokens, logprobs, _ = pick_greedy(logits, 1.0)
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs, torch.log_softmax(logits.float(), -1).gather(1, tokens[:, None])[:, 0])


def test_greedy_takes_a_token_with_probability_and_the_first_of_equals() -> None:
    logits = torch.tensor([[float("-inf"), -9.0, float("-inf")], [0.0, 2.0, 2.0]])
    tokens, logprobs, _ = pick_greedy(logits, 1.0)
    assert tokens.tolist() == [1, 1]
    assert logprobs.tolist() == pytest.approx([0.0, -np.log(2 + np.exp(-2))])


def test_the_temperature_chooses_no_greedy_token() -> None:
    """Of two neighbours that the division rounds to one number the greater is taken, though it stands second."""
    low = torch.linspace(1, 2, 500)
    high = torch.nextafter(low, torch.tensor(9.0))
    alike = low / 1.3 == high / 1.3
    assert alike.sum() > 20, "else nothing is tested"
    assert (pick_greedy(torch.stack([low, high], -1), 1.3).tokens == 1).all()
