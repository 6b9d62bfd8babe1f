"""Clip-higher, dual clip and the KL as a term of the loss, against slow loops, hand-worked numbers and exact sums."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ppo_pipeline.maths.kl import kl_estimate
from ppo_pipeline.maths.ppo import kl_loss, policy_loss, policy_statistics

TOKENS = st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=12)
CLIPS = st.floats(0.05, 0.9)


def columns(tokens: list[tuple[float, float, float]]) -> list[torch.Tensor]:
    return [torch.tensor(column, dtype=torch.float64) for column in zip(*tokens, strict=True)]


@given(TOKENS, CLIPS, st.none() | CLIPS, st.none() | st.floats(1.01, 10))
def test_policy_loss_and_statistics_are_a_slow_loop_s(
    tokens: list[tuple[float, float, float]], low: float, high: float | None, dual: float | None
) -> None:
    """The loop follows the papers' cases instead of minima and maxima: which branch holds for this ratio and sign."""
    upper, expected, clipped = 1 + (low if high is None else high), [], 0
    for logprob, old, advantage in tokens:
        rho = math.exp(logprob - old)
        if advantage > 0:
            expected.append(-advantage * min(rho, upper))
            clipped += rho > upper
        else:
            bound = max(rho, 1 - low)
            expected.append(-advantage * (bound if dual is None else min(bound, dual)))
            clipped += rho < 1 - low and advantage < 0
    found = policy_loss(*columns(tokens), low, high, dual)
    assert found.tolist() == pytest.approx(expected)
    assert policy_statistics(*columns(tokens), low, high)["policy/clipfrac"].item() == clipped


@given(TOKENS, CLIPS)
def test_an_upper_clip_of_the_same_size_changes_no_bit(tokens: list[tuple[float, float, float]], clip: float) -> None:
    for function in (policy_loss, policy_statistics):
        one, other = function(*columns(tokens), clip), function(*columns(tokens), clip, clip)
        pairs = [(one[n], other[n]) for n in one] if isinstance(one, dict) else [(one, other)]
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.25, 1.0, -1.25, -1.25),  # above 1 + 0.2, but not above 1 + 0.28
        (1.3, 1.0, -1.28, 0.0),
        (0.7, 1.0, -0.7, -0.7),
        (0.7, -1.0, 0.8, 0.0),  # the lower side keeps its own clip
        (2.9, -2.0, 5.8, 5.8),
        (3.5, -2.0, 6.0, 0.0),  # dual clip: at most 3 times -A
    ],
)
def test_by_hand_with_clip_higher_and_dual_clip(ratio: float, advantage: float, loss: float, slope: float) -> None:
    """slope: of the loss by the log probability, which is 0 where a clip holds."""
    logprob = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    old = torch.zeros(1, dtype=torch.float64)
    found = policy_loss(logprob, old, torch.tensor([advantage], dtype=torch.float64), 0.2, 0.28, 3.0)
    assert found.item() == pytest.approx(loss)
    found.sum().backward()
    assert logprob.grad.item() == pytest.approx(slope)


def test_kl_loss_by_hand_and_as_in_the_reward() -> None:
    logprobs, reference = torch.tensor([0.5, 0.2]).double().log(), torch.tensor([0.25, 0.4]).double().log()
    half = math.log(2) ** 2 / 2
    assert kl_loss(logprobs, reference, "k2").tolist() == pytest.approx([half, half])
    assert kl_loss(logprobs, reference, "k3").tolist() == pytest.approx([0.5 - 1 + math.log(2), 2 - 1 - math.log(2)])
    for estimator in ("k2", "k3"):
        expected = kl_estimate(logprobs.numpy(), reference.numpy(), estimator)
        assert kl_loss(logprobs, reference, estimator).tolist() == pytest.approx(expected.tolist())
    with pytest.raises(ValueError, match="'k1'; use k2 or k3"):
        kl_loss(logprobs, reference, "k1")


@pytest.mark.parametrize("estimator", ["k2", "k3"])
@given(seed=st.integers(0, 10_000))
def test_its_mean_gradient_is_the_exact_gradient_of_a_kl(estimator: str, seed: int) -> None:
    """Over a vocabulary of 5: the samples' gradients, weighted by the policy's own probabilities, add up to that of
    KL(policy || reference) for k2 and of KL(reference || policy) for k3, by the logits."""
    generator = torch.Generator().manual_seed(seed)
    logits, reference = torch.randn(2, 5, generator=generator, dtype=torch.float64) * 1.5
    logits, reference = logits.requires_grad_(), torch.log_softmax(reference, -1)
    logprobs = torch.log_softmax(logits, -1)
    sampled = (logprobs.exp().detach() * kl_loss(logprobs, reference, estimator)).sum()
    first, second = (logprobs, reference) if estimator == "k2" else (reference, logprobs)
    exact = (first.exp() * (first - second)).sum()
    found, expected = (torch.autograd.grad(t, logits, retain_graph=True)[0] for t in (sampled, exact))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    other = torch.autograd.grad((second.exp() * (second - first)).sum(), logits)[0]
    assert not torch.allclose(found, other, rtol=1e-3)
