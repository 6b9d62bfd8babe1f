"""Drawing tokens: the inverse CDF against a slow loop, and random streams."""

import numpy as np
import pytest
import torch

from ppo_pipeline.sampling.draw import draw, pick_greedy
from ppo_pipeline.sampling.streams import uniforms


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
    tokens, logprobs = draw(logits, numbers, temperature)
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
    tokens, logprobs = pick_greedy(logits)
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
