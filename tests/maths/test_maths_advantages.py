"""KL, token rewards, GAE and whitening against slow loops, hand-worked numbers and properties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppo_pipeline.maths.estimators.gae import gae
from ppo_pipeline.maths.kl import kl_estimate
from ppo_pipeline.maths.masked import whiten, whiten_each
from ppo_pipeline.maths.rewards import kl_penalties, token_rewards

UNIT = st.floats(0, 1)


def ragged_case(seed: int, sequences: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, sequences)
    total = int(lengths.sum())
    return rng.normal(size=total), rng.normal(size=total), rng.normal(size=sequences), lengths


def slow_gae(rewards, values, last_values, lengths, gamma, lam):
    """The definition: A_t is the sum of (gamma lambda)^k delta_{t+k}, sequence by sequence."""
    advantages, start = [], 0
    for last, length in zip(last_values, lengths, strict=True):
        r, v = rewards[start : start + length], [*values[start : start + length], last]
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(length)]
        advantages += [sum((gamma * lam) ** k * delta[t + k] for k in range(length - t)) for t in range(length)]
        start += length
    return np.array(advantages), np.array(advantages) + values


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), UNIT, UNIT)
def test_gae_is_its_definition(seed: int, sequences: int, gamma: float, lam: float) -> None:
    case = ragged_case(seed, sequences)
    for found, expected in zip(gae(*case, gamma, lam), slow_gae(*case, gamma, lam), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-10)


def test_gae_by_hand() -> None:
    # delta = [0 + .5*2 - 1, 3 + .5*0 - 2] = [0, 1]; A = [0 + .25*1, 1]; R = A + V. Second sequence: 1 + .5*4 - 3 = 0.
    advantages, returns = gae(
        np.array([0.0, 3.0, 1.0]), np.array([1.0, 2.0, 3.0]), np.array([0.0, 4.0]), np.array([2, 1]), 0.5, 0.5
    )
    assert advantages.tolist() == [0.25, 1.0, 0.0]
    assert returns.tolist() == [1.25, 3.0, 3.0]


def test_gamma_and_lambda_one_give_reward_to_go() -> None:
    rewards, values, last, lengths = ragged_case(3, 6)
    _, returns = gae(rewards, values, np.zeros_like(last), lengths, 1.0, 1.0)
    start = 0
    for length in lengths:
        part = rewards[start : start + length]
        np.testing.assert_allclose(returns[start : start + length], part[::-1].cumsum()[::-1])
        start += length


def test_gae_does_not_change_its_arguments_and_knows_no_neighbour() -> None:
    rewards, values, last, lengths = ragged_case(4, 5)
    kept = rewards.copy(), values.copy()
    together, _ = gae(rewards, values, last, lengths, 0.9, 0.8)
    assert np.array_equal(rewards, kept[0])
    assert np.array_equal(values, kept[1])
    ends = np.cumsum(lengths)
    for i, end in enumerate(ends):
        rows = slice(end - lengths[i], end)
        alone, _ = gae(rewards[rows], values[rows], last[i : i + 1], lengths[i : i + 1], 0.9, 0.8)
        np.testing.assert_allclose(together[rows], alone)


def test_kl_estimators_by_hand() -> None:
    lp, ref = np.log(np.array([0.5, 0.2])), np.log(np.array([0.25, 0.4]))
    np.testing.assert_allclose(kl_estimate(lp, ref, "k1"), [np.log(2), -np.log(2)])
    np.testing.assert_allclose(kl_estimate(lp, ref, "k2"), [np.log(2) ** 2 / 2] * 2)
    np.testing.assert_allclose(kl_estimate(lp, ref, "k3"), [0.5 - 1 + np.log(2), 2 - 1 - np.log(2)])
    with pytest.raises(ValueError, match="unknown KL estimator"):
        kl_estimate(lp, ref, "k4")


@given(st.integers(0, 1000))
def test_k1_and_k3_are_unbiased_and_k3_is_never_negative(seed: int) -> None:
    """Over all tokens of a small vocabulary, weighted by the policy, the expectation is the exact KL."""
    rng = np.random.default_rng(seed)
    p, q = rng.dirichlet(np.ones(7)) + 1e-9, rng.dirichlet(np.ones(7)) + 1e-9
    p, q = p / p.sum(), q / q.sum()
    exact = (p * np.log(p / q)).sum()
    for name in ("k1", "k3"):
        assert (p * kl_estimate(np.log(p), np.log(q), name)).sum() == pytest.approx(exact, abs=1e-9)
    assert (kl_estimate(np.log(p), np.log(q), "k3") >= 0).all()


def test_the_score_goes_on_the_last_token_of_each_sequence() -> None:
    rewards = token_rewards(np.array([1.0, 2.0, 3.0, 4.0]), np.array([10.0, 20.0]), np.array([3, 1]), 0.5)
    assert rewards.tolist() == [-0.5, -1.0, 8.5, 18.0]


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=50))
def test_whitened_values_have_mean_0_and_variance_1(values: list[float]) -> None:
    array = np.array(values)
    if array.std() < 1e-2:
        return
    whitened = whiten(array)
    assert whitened.mean() == pytest.approx(0, abs=1e-9)
    assert whitened.var(ddof=1) == pytest.approx(1, rel=1e-3)
    np.testing.assert_allclose(whiten(array, shift_mean=False), whitened + array.mean())


def test_whitening_one_or_no_value() -> None:
    assert whiten(np.array([5.0])).tolist() == [0.0]
    assert whiten(np.array([])).size == 0


@pytest.mark.parametrize("lengths", [[1], [1, 1, 1, 1], [200, 1], [1, 200], [1, 7, 200, 7, 1], [5, 5, 5]])
def test_gae_of_single_tokens_equal_and_very_unequal_lengths(lengths: list[int]) -> None:
    rng = np.random.default_rng(sum(lengths))
    total = sum(lengths)
    case = rng.normal(size=total), rng.normal(size=total), rng.normal(size=len(lengths)), np.array(lengths)
    for found, expected in zip(gae(*case, 0.95, 0.9), slow_gae(*case, 0.95, 0.9), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-10)


def test_a_cut_response_goes_on_with_its_bootstrap_value() -> None:
    """Undiscounted, a return is the reward to go plus the bootstrap value, an advantage is that less the value."""
    rewards, values, last, lengths = ragged_case(5, 6)
    advantages, returns = gae(rewards, values, last, lengths, 1.0, 1.0)
    ends = np.cumsum(lengths).tolist()
    for i, end in enumerate(ends):
        for t in range(end - lengths[i], end):
            assert returns[t] == pytest.approx(sum(rewards[t:end]) + last[i])
            assert advantages[t] == pytest.approx(sum(rewards[t:end]) + last[i] - values[t])


def test_gae_of_float32_is_computed_in_float64() -> None:
    """1e8 + 1 has no float32; in float64 the 1 survives."""
    rewards, values = np.array([1.0, 1e8], np.float32), np.zeros(2, np.float32)
    advantages, _ = gae(rewards, values, np.zeros(1, np.float32), np.array([2]), 1.0, 1.0)
    assert advantages.tolist() == [100_000_001.0, 100_000_000.0]


def test_gae_of_no_sequence() -> None:
    empty = np.array([])
    assert [part.size for part in gae(empty, empty, empty, np.array([], int), 1.0, 1.0)] == [0, 0]


@pytest.mark.parametrize("difference", [1e-6, -1e-6, 1e-9, -1e-9])
def test_k3_keeps_its_digits_where_the_policies_nearly_agree(difference: float) -> None:
    """exp(-d) - 1 + d is d^2 / 2 for small d; computed as it is written, all its digits cancel."""
    found = kl_estimate(np.array([difference]), np.zeros(1), "k3")
    assert found[0] == pytest.approx(difference**2 / 2, rel=1e-4)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(0, 2))
def test_token_rewards_are_a_slow_loop_s(seed: int, sequences: int, kl_coef: float) -> None:
    kl, _, scores, lengths = ragged_case(seed, sequences)
    kept, expected = kl.copy(), []
    for score, length in zip(scores, lengths, strict=True):
        for t in range(length):
            expected.append(-kl_coef * kl[len(expected)] + (score if t == length - 1 else 0.0))
    np.testing.assert_allclose(token_rewards(kl, scores, lengths, kl_coef), expected)
    assert np.array_equal(kl, kept)


def test_whitening_by_hand() -> None:
    # mean 2; variance ((1 - 2)^2 + (3 - 2)^2) / (2 - 1) = 2
    np.testing.assert_allclose(whiten(np.array([1.0, 3.0])), [-(0.5**0.5), 0.5**0.5], rtol=1e-7)
    np.testing.assert_allclose(whiten(np.array([1.0, 3.0]), shift_mean=False), [2 - 0.5**0.5, 2 + 0.5**0.5], rtol=1e-7)
    assert whiten(np.array([4.0, 4.0, 4.0])).tolist() == [0.0, 0.0, 0.0]
    assert whiten(np.array([4.0]), shift_mean=False).tolist() == [4.0]


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(0, 2))
def test_a_sequence_s_kl_penalty_on_its_last_token_is_a_slow_loop_s(seed: int, sequences: int, kl_coef: float) -> None:
    kl, _, scores, lengths = ragged_case(seed, sequences)
    kept, start, sums, means = kl.copy(), 0, [], []
    for length in lengths:
        total = sum(kl[start : start + length])
        sums += [0.0] * (length - 1) + [-kl_coef * total]
        means += [0.0] * (length - 1) + [-kl_coef * total / length]
        start += length
    ends = np.cumsum(lengths) - 1
    for where, expected in (("token", -kl_coef * kl), ("sequence_sum", sums), ("sequence_mean", means)):
        expected = np.array(expected)
        np.testing.assert_allclose(kl_penalties(kl, lengths, kl_coef, where), expected, atol=1e-12)
        expected[ends] += scores
        np.testing.assert_allclose(token_rewards(kl, scores, lengths, kl_coef, where), expected, atol=1e-12)
    assert np.array_equal(kl, kept)


def test_kl_penalties_by_hand() -> None:
    kl, lengths = np.array([1.0, 2.0, 6.0, 4.0]), np.array([3, 1])
    assert kl_penalties(kl, lengths, 0.5, "token").tolist() == [-0.5, -1, -3, -2]
    assert kl_penalties(kl, lengths, 0.5, "sequence_sum").tolist() == [0, 0, -4.5, -2]
    assert kl_penalties(kl, lengths, 0.5, "sequence_mean").tolist() == [0, 0, -1.5, -2]
    with pytest.raises(ValueError, match="'last'; use token, sequence_sum or sequence_mean"):
        kl_penalties(kl, lengths, 0.5, "last")


def test_each_sequence_is_whitened_by_itself() -> None:
    """By hand: 1, 2, 3 has mean 2 and deviation 1; 0, 4 mean 2 and deviation sqrt 8; 7 is alone; 5, 5 are equal."""
    values, lengths = np.array([1.0, 2, 3, 0, 4, 7, 5, 5]), np.array([3, 2, 1, 2])
    half = 2 / math.sqrt(8)
    np.testing.assert_allclose(whiten_each(values, lengths), [-1, 0, 1, -half, half, 0, 0, 0], atol=1e-7)
