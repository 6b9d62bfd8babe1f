"""GSPO and CISPO against numbers worked by hand, the papers' own formulas, and TRL's statements."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ppo_pipeline.maths.policy_losses import cispo_loss, sequence_log_ratios
from ppo_pipeline.maths.ppo import policy_loss

SEEDS = st.integers(0, 10_000)


def responses(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int]]:
    """Return logprobs with a gradient, old ones, an advantage per response, and lengths."""
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 6, (4,), generator=rng).tolist()
    old = torch.randn(sum(lengths), generator=rng, dtype=torch.float64)
    logprobs = old + 0.4 * torch.randn(sum(lengths), generator=rng, dtype=torch.float64)
    return logprobs.requires_grad_(), old, torch.randn(4, generator=rng, dtype=torch.float64), lengths


def gspo(logprobs: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    return policy_loss(sequence_log_ratios(logprobs, old, lengths), torch.zeros_like(old), advantages, 0.1, 0.15)


def test_the_response_s_ratio_is_the_geometric_mean() -> None:
    """Ratios 2 and 8 make 4; the last response has one token."""
    logs = torch.tensor([2.0, 8.0, 0.25]).log()
    assert sequence_log_ratios(logs, torch.zeros(3), [2, 1]).exp().tolist() == pytest.approx([4, 4, 0.25])


@given(SEEDS)
def test_with_one_advantage_a_response_it_is_gspo(seed: int) -> None:
    """Eq. 5: the mean over responses of min(s A, clip(s) A), with s and its whole gradient."""
    logprobs, old, advantages, lengths = responses(seed)
    expected = torch.zeros((), dtype=torch.float64)
    for own, before, a in zip(logprobs.split(lengths), old.split(lengths), advantages, strict=True):
        s = torch.prod((own - before).exp()) ** (1 / len(own))
        expected = expected - torch.minimum(s * a, s.clamp(0.9, 1.15) * a) / len(lengths)
    (wanted,) = torch.autograd.grad(expected, logprobs)
    n = torch.tensor(lengths)
    per_token = gspo(logprobs, old, advantages.repeat_interleave(n), lengths)
    found = (per_token / n.repeat_interleave(n)).sum() / len(lengths)  # loss_normalization: sequence_mean
    (gradient,) = torch.autograd.grad(found, logprobs)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, wanted)


@given(SEEDS)
def test_with_an_advantage_by_token_each_has_its_own_gradient(seed: int) -> None:
    """Eq. 17 of the paper: s_i A_t times the gradient of log pi_t, 0 where the response is clipped for A_t's sign."""
    logprobs, old, _, lengths = responses(seed)
    advantages = torch.randn(len(old), generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    (found,) = torch.autograd.grad(gspo(logprobs, old, advantages, lengths).sum(), logprobs)
    at = 0
    for length in lengths:
        s = math.exp(sum((logprobs[t] - old[t]).item() for t in range(at, at + length)) / length)
        for t in range(at, at + length):
            a = advantages[t].item()
            clipped = s > 1.15 if a > 0 else s < 0.9
            assert found[t].item() == pytest.approx(0.0 if clipped else -s * a)
        at += length


@pytest.mark.parametrize(
    ("ratio", "advantage", "weight"),
    [(1.1, 1.0, 1.1), (2.0, 1.0, 1.5), (2.0, -1.0, 1.5), (0.5, 2.0, 0.8), (0.5, -2.0, 0.8)],
)
def test_cispo_by_hand(ratio: float, advantage: float, weight: float) -> None:
    """The weight is clipped for either sign, and the logprob keeps its gradient: -weight A."""
    logprob = torch.tensor([math.log(0.3)], dtype=torch.float64, requires_grad=True)
    old = logprob.detach() - math.log(ratio)
    loss, clipped = cispo_loss(logprob, old, torch.tensor([advantage], dtype=torch.float64), 0.2, 0.5)
    loss.backward()
    assert loss.item() == pytest.approx(-weight * advantage * math.log(0.3))
    assert logprob.grad.item() == pytest.approx(-weight * advantage)
    assert clipped.tolist() == [weight != ratio]


def test_a_clip_range_of_1_leaves_cispo_s_lower_bound_out() -> None:
    ratios = torch.tensor([1e-6, 0.5, 9.0])
    _, clipped = cispo_loss(ratios.log(), torch.zeros(3), torch.ones(3), 1.0, 4.0)
    assert clipped.tolist() == [False, False, True]


@given(SEEDS)
def test_on_the_first_step_all_losses_have_ppo_s_gradient(seed: int) -> None:
    logprobs, _, _, lengths = responses(seed)
    old, advantages = logprobs.detach().clone(), torch.linspace(-1, 2, sum(lengths), dtype=torch.float64)
    for loss in (
        policy_loss(logprobs, old, advantages, 0.2), gspo(logprobs, old, advantages, lengths),
        cispo_loss(logprobs, old, advantages, 0.2, 0.2)[0],
    ):  # fmt: skip
        torch.testing.assert_close(torch.autograd.grad(loss.sum(), logprobs)[0], -advantages)
