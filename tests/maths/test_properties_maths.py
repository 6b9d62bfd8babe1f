"""Properties of the maths that hold for any input: order, padding, bounds, signs, scale."""

import math

import numpy as np
import pytest
import torch
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from ppo_pipeline.maths.estimators.gae import gae
from ppo_pipeline.maths.estimators.grpo import group_normalised
from ppo_pipeline.maths.estimators.rloo import leave_one_out
from ppo_pipeline.maths.kl import kl_estimate
from ppo_pipeline.maths.masked import whiten
from ppo_pipeline.maths.ppo import kl_loss, policy_loss, policy_statistics, value_loss
from ppo_pipeline.maths.rewards import kl_penalties, token_rewards
from ppo_pipeline.maths.schedule import adapted_kl_coef, learning_rate_factor
from ppo_pipeline.maths.scores import judge_missing_eos, merged_moments, scaled

SEEDS = st.integers(0, 10**6)
UNIT = st.floats(0, 1)
CLIPS = st.floats(0.05, 0.9)


def ragged(seed: int, longest: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return rewards, values, last values and lengths of 1 to 30 sequences, of which many are 1 long."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, rng.integers(2, longest + 1), rng.integers(1, 31))
    total = int(lengths.sum())
    return rng.normal(size=total) * 3, rng.normal(size=total), rng.normal(size=len(lengths)), lengths


def split(flat: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    return np.split(flat, np.cumsum(lengths)[:-1])


def tokens(seed: int, count: int = 24) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return logprobs, old logprobs and advantages in float64, the ratios from 0.05 to 20."""
    generator = torch.Generator().manual_seed(seed)
    old, difference, advantages = torch.rand(3, count, generator=generator, dtype=torch.float64)
    return -4 * old + (difference - 0.5) * 6, -4 * old, (advantages - 0.5) * 4


@examples(60)
@given(SEEDS, UNIT, UNIT)
def test_gae_is_the_recursion_from_the_end_of_each_padded_row(seed: int, gamma: float, lam: float) -> None:
    """Computed on a padded matrix, as in-memory trainers do, with rubbish in the padding: the real tokens agree."""
    rewards, values, last, lengths = ragged(seed)
    longest = lengths.max() + seed % 3
    padded = np.full((len(lengths), longest), 1e6)
    expected = []
    for row, (r, v) in enumerate(zip(split(rewards, lengths), split(values, lengths), strict=True)):
        padded[row, : len(r)] = r
        advantage, following, found = 0.0, last[row], []
        for t in range(len(r) - 1, -1, -1):
            advantage = padded[row, t] + gamma * following - v[t] + gamma * lam * advantage
            following = v[t]
            found.append(advantage)
        expected += found[::-1]
    advantages, returns = gae(rewards, values, last, lengths, gamma, lam)
    assert advantages.dtype == returns.dtype == np.float64
    np.testing.assert_allclose(advantages, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(returns, np.array(expected) + values, rtol=1e-9, atol=1e-9)


@examples(40)
@given(SEEDS, UNIT, UNIT, st.floats(0, 2), st.sampled_from(["token", "sequence_sum", "sequence_mean"]))
def test_sequences_in_another_order_give_the_same_numbers_in_that_order(seed, gamma, lam, kl_coef, where) -> None:
    rewards, values, last, lengths = ragged(seed)
    order = np.random.default_rng(seed + 1).permutation(len(lengths))

    def permuted(flat: np.ndarray) -> np.ndarray:
        parts = split(flat, lengths)
        return np.concatenate([parts[i] for i in order])

    shuffled = permuted(rewards), permuted(values), last[order], lengths[order]
    for found, other in zip(gae(rewards, values, last, lengths, gamma, lam), gae(*shuffled, gamma, lam), strict=True):
        np.testing.assert_allclose(permuted(found), other, atol=1e-12)
    found = token_rewards(rewards, last, lengths, kl_coef, where)
    other = token_rewards(shuffled[0], last[order], lengths[order], kl_coef, where)
    np.testing.assert_allclose(permuted(found), other, atol=1e-12)


@examples(40)
@given(SEEDS, UNIT)
def test_gae_with_lambda_0_or_1_and_gamma_0_or_1_is_what_each_is_known_for(seed: int, gamma: float) -> None:
    """lambda 0: one-step errors. gamma 0: reward less value. Both 1: reward to go, whatever the values are."""
    rewards, values, last, lengths = ragged(seed)
    following = np.concatenate([[*v[1:], end] for v, end in zip(split(values, lengths), last, strict=True)])
    np.testing.assert_allclose(
        gae(rewards, values, last, lengths, gamma, 0.0)[0], rewards + gamma * following - values, atol=1e-12
    )
    np.testing.assert_allclose(gae(rewards, values, last, lengths, 0.0, gamma)[0], rewards - values, atol=1e-12)
    to_go = np.concatenate([r[::-1].cumsum()[::-1] for r in split(rewards, lengths)])
    np.testing.assert_allclose(gae(rewards, values, 0 * last, lengths, 1.0, 1.0)[1], to_go, atol=1e-9)
    np.testing.assert_allclose(gae(rewards, 9 * values, 0 * last, lengths, 1.0, 1.0)[1], to_go, atol=1e-9)


@examples(40)
@given(SEEDS, UNIT, UNIT)
def test_gae_is_linear_and_exact_values_leave_no_advantage(seed: int, gamma: float, lam: float) -> None:
    rewards, values, last, lengths = ragged(seed)
    one = gae(rewards, values, last, lengths, gamma, lam)[0]
    two = gae(values, rewards, -last, lengths, gamma, lam)[0]
    both = gae(2 * rewards + values, 2 * values + rewards, 2 * last - last, lengths, gamma, lam)[0]
    np.testing.assert_allclose(both, 2 * one + two, atol=1e-9)
    exact = []  # V_t = r_t + gamma V_{t+1}
    for r, end in zip(split(rewards, lengths), last, strict=True):
        row = [end]
        for reward in r[::-1]:
            row.append(reward + gamma * row[-1])
        exact += row[:0:-1]
    np.testing.assert_allclose(gae(rewards, np.array(exact), last, lengths, gamma, lam)[0], 0, atol=1e-9)


@examples(60)
@given(SEEDS, st.floats(0.1, 1000), st.floats(-1000, 1000))
def test_whitening_undoes_scale_and_level_and_keeps_the_order(seed: int, scale: float, level: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=rng.integers(2, 400))
    found = whiten(values * scale + level)
    assert found.mean() == pytest.approx(0, abs=1e-9)
    assert found.std(ddof=1) == pytest.approx(1, rel=1e-5 / min(1, values.std() * scale) ** 2)
    np.testing.assert_allclose(found, whiten(values * scale), atol=1e-6)
    np.testing.assert_array_equal(np.argsort(found, kind="stable"), np.argsort(values * scale + level, kind="stable"))
    order = rng.permutation(len(values))
    np.testing.assert_allclose(whiten((values * scale + level)[order]), found[order], atol=1e-9)
    np.testing.assert_allclose(
        whiten(values * scale + level, shift_mean=False), found + (values * scale + level).mean(), rtol=1e-9
    )


@pytest.mark.parametrize("eps", [1e-8, 0.5, 3.0])
def test_whitening_adds_eps_to_the_variance(eps: float) -> None:
    np.testing.assert_allclose(
        whiten(np.array([1.0, 3.0]), eps=eps), np.array([-1, 1]) / math.sqrt(2 + eps), rtol=1e-12
    )


@examples(60)
@given(SEEDS)
def test_signs_and_bounds_of_the_kl_estimators(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = -rng.exponential(2, (2, 3, 7))
    found = {name: kl_estimate(one, other, name) for name in ("k1", "k2", "k3")}
    assert all(k.shape == (3, 7) for k in found.values())
    np.testing.assert_array_equal(found["k1"], -kl_estimate(other, one, "k1"))
    np.testing.assert_array_equal(np.sign(found["k1"]), np.where(one > other, 1.0, -1.0))
    np.testing.assert_array_equal(found["k2"], kl_estimate(other, one, "k2"))
    np.testing.assert_allclose(found["k2"], found["k1"] ** 2 / 2)
    assert (found["k2"] > 0).all()
    assert (found["k3"] > 0).all()
    assert (found["k3"] >= found["k1"] - 1).all()  # exp is above 0
    # k3 is above k2 where the policy finds the token less likely than the reference does, and below it elsewhere
    np.testing.assert_array_equal(found["k3"] > found["k2"], one < other)
    for name in found:
        assert not kl_estimate(one, one, name).any()


@examples(40)
@given(SEEDS, st.sampled_from(["k2", "k3"]))
def test_the_kl_loss_pulls_towards_the_reference(seed: int, estimator: str) -> None:
    """Its gradient by the log probability is d (k2) or 1 - exp(-d) (k3), d = lp - ref: of d's sign, 0 at d = 0."""
    logprobs, reference, _ = tokens(seed)
    reference = torch.where(torch.arange(len(reference)) % 5 == 0, logprobs, reference)
    leaf = logprobs.clone().requires_grad_()
    kl_loss(leaf, reference, estimator).sum().backward()
    difference = logprobs - reference
    expected = difference if estimator == "k2" else 1 - torch.exp(-difference)
    torch.testing.assert_close(leaf.grad, expected, rtol=1e-9, atol=1e-12)
    assert torch.equal(leaf.grad.sign(), difference.sign())


@examples(60)
@given(SEEDS, CLIPS, st.none() | CLIPS, st.none() | st.floats(1.5, 10))
def test_bounds_of_the_policy_loss(seed: int, low: float, high: float | None, dual: float | None) -> None:
    logprobs, old, advantages = tokens(seed)
    upper = 1 + (low if high is None else high)
    found = policy_loss(logprobs, old, advantages, low, high, dual)
    plain = policy_loss(logprobs, old, advantages, low, high)
    unclipped = -advantages * torch.exp(logprobs - old)
    assert (plain >= unclipped).all()  # pessimistic: never below the loss without a clip
    assert (plain[advantages > 0] >= -advantages[advantages > 0] * upper - 1e-12).all()
    assert (plain[advantages < 0] >= -advantages[advantages < 0] * (1 - low) - 1e-12).all()
    assert torch.equal(found[advantages >= 0], plain[advantages >= 0])
    if dual is not None:
        assert (found <= plain).all()
        assert (found[advantages < 0] <= -dual * advantages[advantages < 0]).all()
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(policy_loss(logprobs[order], old[order], advantages[order], low, high, dual), found[order])
    assert not policy_loss(logprobs, old, 0 * advantages, low, high, dual).any()


@examples(40)
@given(SEEDS, CLIPS)
def test_the_policy_gradient_follows_the_advantage_or_is_0(seed: int, clip: float) -> None:
    logprobs, old, advantages = tokens(seed)
    leaf = logprobs.clone().requires_grad_()
    policy_loss(leaf, old, advantages, clip).sum().backward()
    ratio = torch.exp(logprobs - old)
    too_far = ((advantages > 0) & (ratio > 1 + clip)) | ((advantages < 0) & (ratio < 1 - clip))
    torch.testing.assert_close(leaf.grad, torch.where(too_far, 0.0, -advantages * ratio), rtol=1e-9, atol=1e-12)
    assert policy_statistics(logprobs, old, advantages, clip)["policy/clipfrac"].item() == too_far.sum().item()


@examples(40)
@given(SEEDS, CLIPS, st.none() | CLIPS, st.integers(0, 24))
def test_statistics_add_up_over_microbatches(seed: int, low: float, high: float | None, cut: int) -> None:
    whole = policy_statistics(*tokens(seed), low, high)
    first, second = (
        policy_statistics(*(t[part] for t in tokens(seed)), low, high) for part in (slice(cut), slice(cut, None))
    )
    for name, value in whole.items():
        assert value.item() == pytest.approx((first[name] + second[name]).item())
    assert whole["policy/approxkl"].item() > 0
    same, _, advantages = tokens(seed)
    still = policy_statistics(same, same, advantages, low, high)
    assert [still[n].item() for n in ("policy/approxkl", "policy/clipfrac", "val/ratio")] == [0, 0, 24]


@examples(40)
@given(SEEDS, CLIPS)
def test_the_clipped_value_loss_is_never_below_the_plain_one(seed: int, clip: float) -> None:
    values, old, returns = tokens(seed)
    clipped, plain = value_loss(values, old, returns, clip), value_loss(values, old, returns, None)
    assert (clipped >= plain).all()
    near = (values - old).abs() <= clip
    torch.testing.assert_close(clipped[near], plain[near])
    assert torch.equal(value_loss(returns, returns, returns, clip), torch.zeros(24, dtype=torch.float64))


@examples(60)
@given(SEEDS, st.floats(-5, 5), st.floats(0.1, 10))
def test_group_advantages_sum_to_0_and_follow_the_rewards(seed: int, level: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    groups = np.repeat(rng.choice(1000, 6, replace=False), rng.integers(2, 9, 6))
    rewards = rng.normal(size=len(groups))
    for function in (leave_one_out, group_normalised):
        found = function(rewards, groups)
        assert found.dtype == np.float64
        for group in np.unique(groups):
            own = groups == group
            assert found[own].sum() == pytest.approx(0, abs=1e-8)
            np.testing.assert_array_equal(np.argsort(found[own]), np.argsort(rewards[own]))
            np.testing.assert_allclose(function(rewards[own], groups[own]), found[own], atol=1e-10)
    raised = rewards * scale + level
    np.testing.assert_allclose(leave_one_out(raised, groups), scale * leave_one_out(rewards, groups), atol=1e-8)
    np.testing.assert_allclose(group_normalised(raised, groups, 0.0), group_normalised(rewards, groups, 0.0), atol=1e-6)


@examples(40)
@given(SEEDS, st.floats(0, 2))
def test_what_a_sequence_is_paid_in_all(seed: int, kl_coef: float) -> None:
    """On each token or on the last one, the sum is the score less kl_coef times the KL, or its mean."""
    kl, _, scores, lengths = ragged(seed)
    sums = np.array([part.sum() for part in split(kl, lengths)])
    for where, paid in (("token", sums), ("sequence_sum", sums), ("sequence_mean", sums / lengths)):
        found = split(token_rewards(kl, scores, lengths, kl_coef, where), lengths)
        np.testing.assert_allclose([part.sum() for part in found], scores - kl_coef * paid, atol=1e-9)
        if where != "token":
            assert not any(part[:-1].any() for part in found)
    assert kl_penalties(kl.astype(np.float32), lengths, kl_coef, "token").dtype == np.float64


@examples(60)
@given(SEEDS, st.integers(1, 6))
def test_moments_do_not_depend_on_how_scores_are_cut_into_rounds(seed: int, rounds: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(rng.normal() * 100, 3, 60)
    state = (0, 0.0, 0.0)
    for part in np.split(scores, np.sort(rng.integers(0, 61, rounds))):
        state = merged_moments(*state, part)
    assert state == (60, pytest.approx(scores.mean()), pytest.approx(scores.var()))
    assert merged_moments(*state, np.array([])) == state
    np.testing.assert_allclose(scaled(scores, *state, shift=True).std(ddof=1), 1)
    np.testing.assert_allclose(scaled(scores, *state, shift=True).mean(), 0, atol=1e-9)
    np.testing.assert_allclose(scaled(scores, *state, shift=False), scores / scores.std(ddof=1))


@pytest.mark.parametrize(
    ("count", "variance", "expected"), [(2, 0.5, 1.0), (2, 2.0, 2.0), (1, 2.0, 1.0), (0, 2.0, 1.0)]
)
def test_the_scale_of_few_scores(count: int, variance: float, expected: float) -> None:
    """Two scores have a deviation: of biased variance v the unbiased one is 2 v. One has none."""
    assert scaled(np.array([4.0]), count, 1.0, variance, shift=False).tolist() == pytest.approx([4 / expected])
    assert scaled(np.array([4.0]), count, 1.0, variance, shift=True).tolist() == pytest.approx([3 / expected])


@pytest.mark.parametrize(("eps", "expected"), [(1.999, 2.0), (2.0, 1.0), (2.001, 1.0)])
def test_a_deviation_of_eps_or_less_counts_as_none(eps: float, expected: float) -> None:
    """Two scores of biased variance 2 have the deviation 2."""
    assert scaled(np.array([6.0]), 2, 0.0, 2.0, shift=False, eps=eps).tolist() == pytest.approx([6 / expected])
    assert scaled(np.array([6.0]), 2, 0.0, 2e-8, shift=False).tolist() == pytest.approx([6 / 2e-4])


@examples(40)
@given(SEEDS, st.floats(0, 5), st.floats(-5, 5))
def test_only_cut_responses_are_judged(seed: int, penalty: float, replacement: float) -> None:
    rng = np.random.default_rng(seed)
    scores, cut = rng.normal(size=20), rng.random(20) < 0.5
    for found, expected in (
        (
            judge_missing_eos(scores, cut, penalty, None),
            [s - penalty if c else s for s, c in zip(scores, cut, strict=True)],
        ),
        (
            judge_missing_eos(scores, cut, None, replacement),
            [replacement if c else s for s, c in zip(scores, cut, strict=True)],
        ),
    ):
        np.testing.assert_allclose(found, expected)


@examples(100)
@given(st.sampled_from(["linear", "cosine"]), st.integers(0, 20), st.integers(1, 200), st.integers(1, 400))
def test_the_schedule_starts_at_1_after_the_warm_up_and_ends_above_0(schedule, warmup, more, depth) -> None:
    total = warmup + more
    factor = learning_rate_factor(depth, schedule, warmup, total)
    assert 0 < factor <= 1
    assert learning_rate_factor(warmup + 1, schedule, warmup, total) == 1
    assert learning_rate_factor(total + depth, schedule, warmup, total) == learning_rate_factor(
        total, schedule, warmup, total
    )
    if depth <= warmup:
        assert factor == pytest.approx(depth / (warmup + 1))
    elif depth <= total:  # from an angle, and from a share
        share = (depth - warmup - 1) / more
        assert factor == pytest.approx(1 - share if schedule == "linear" else math.cos(math.pi * share / 2) ** 2)


@examples(60)
@given(st.floats(1e-3, 10), st.floats(-100, 100), st.floats(0.1, 50), st.integers(1, 10**5), st.integers(1, 10**4))
def test_the_adaptive_kl_moves_by_a_fifth_of_samples_over_horizon_at_most(coef, kl, target, horizon, samples) -> None:
    found = adapted_kl_coef(coef, kl, target, horizon, samples)
    assert abs(found / coef - 1) <= 0.2 * samples / horizon * (1 + 1e-9) + 1e-12
    assert (found >= coef) is (kl >= target) or found == pytest.approx(coef)
