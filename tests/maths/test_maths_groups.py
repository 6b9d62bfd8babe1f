"""Advantages from groups of responses against slow loops, hand-worked numbers and properties."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppo_pipeline.maths.estimators.dr_grpo import dr_grpo
from ppo_pipeline.maths.estimators.grpo import group_normalised
from ppo_pipeline.maths.estimators.reinforce_pp_baseline import reinforce_pp_baseline
from ppo_pipeline.maths.estimators.rloo import leave_one_out
from ppo_pipeline.maths.groups import group_centred
from ppo_pipeline.maths.masked import whiten


def case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rewards and groups of 2 to 6, the groups mixed up and their numbers not in a row."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 7, rng.integers(1, 8))
    groups = np.repeat(rng.choice(100, len(sizes), replace=False), sizes)
    rng.shuffle(groups)
    return rng.normal(size=len(groups)) * 3, groups


@given(st.integers(0, 10_000))
def test_leave_one_out_is_a_slow_loop_s(seed: int) -> None:
    rewards, groups = case(seed)
    expected = []
    for i, reward in enumerate(rewards):
        others = [rewards[j] for j in range(len(rewards)) if groups[j] == groups[i] and j != i]
        expected.append(reward - sum(others) / len(others))
    np.testing.assert_allclose(leave_one_out(rewards, groups), expected, atol=1e-12)


@given(st.integers(0, 10_000), st.sampled_from([1e-4, 0.0, 1.0]))
def test_group_normalised_is_a_slow_loop_s(seed: int, eps: float) -> None:
    rewards, groups = case(seed)
    expected = []
    for i, reward in enumerate(rewards):
        group = [rewards[j] for j in range(len(rewards)) if groups[j] == groups[i]]
        mean = sum(group) / len(group)
        deviation = math.sqrt(sum((r - mean) ** 2 for r in group) / (len(group) - 1))
        expected.append((reward - mean) / (deviation + eps))
    np.testing.assert_allclose(group_normalised(rewards, groups, eps), expected, rtol=1e-9, atol=1e-12)


@given(st.integers(0, 10_000))
def test_group_centred_is_rloo_s_by_the_group_s_size(seed: int) -> None:
    """R_i - mean = (G - 1) / G (R_i - mean of the others): a group of 4 gives three quarters of RLOO's."""
    rewards, groups = case(seed)
    sizes = np.array([(groups == group).sum() for group in groups])
    expected = leave_one_out(rewards, groups) * (sizes - 1) / sizes
    np.testing.assert_allclose(group_centred(rewards, groups), expected, atol=1e-12)


def test_dr_grpo_and_reinforce_pp_with_a_baseline_by_hand() -> None:
    """Two responses of 1 and 3 tokens to a prompt, rewards 1 and 2 in sum; one of 2 to another, which is its mean."""
    rewards, lengths, groups = np.array([1.0, 0.5, 0.0, 1.5, 4.0, 3.0]), np.array([1, 3, 2]), np.array([7, 7, 3])
    found = dr_grpo(rewards, lengths, groups)
    assert found.advantages.tolist() == [-0.5, 0.5, 0.5, 0.5, 0.0, 0.0] and found.returns is None
    same = reinforce_pp_baseline(rewards, lengths, groups)
    # Over the round's 6 tokens: mean 1/6, variance (1 - 1/6) / 5 = 1/6.
    expected = [(x - 1 / 6) * math.sqrt(6) for x in (-0.5, 0.5, 0.5, 0.5, 0.0, 0.0)]
    np.testing.assert_allclose(whiten(same.advantages), expected, rtol=1e-6)
    assert same.returns is None


def test_by_hand() -> None:
    # Group 5: rewards 1, 4, 7, mean 4, deviation 3. Group 2: rewards 0, 2, mean 1, deviation sqrt(2).
    rewards, groups = np.array([1.0, 0.0, 4.0, 2.0, 7.0]), np.array([5, 2, 5, 2, 5])
    assert leave_one_out(rewards, groups).tolist() == [1 - 5.5, -2.0, 4 - 4.0, 2.0, 7 - 2.5]
    third, half = 3 / 3.0001, 1 / (math.sqrt(2) + 1e-4)
    np.testing.assert_allclose(group_normalised(rewards, groups), [-third, -half, 0, half, third])


@given(st.integers(0, 10_000), st.floats(-50, 50))
def test_groups_may_come_in_any_order_and_their_level_does_not_count(seed: int, level: float) -> None:
    rewards, groups = case(seed)
    order = np.random.default_rng(seed + 1).permutation(len(rewards))
    kept = rewards.copy()
    for function in (leave_one_out, group_normalised):
        found = function(rewards, groups)
        np.testing.assert_allclose(function(rewards[order], groups[order]), found[order], atol=1e-10)
        raised = rewards + level * (groups == groups[0])
        np.testing.assert_allclose(function(raised, groups), found, atol=1e-8)
        for group in set(groups.tolist()):
            assert found[groups == group].sum() == pytest.approx(0, abs=1e-9)
    assert np.array_equal(rewards, kept)


def test_equal_rewards_have_no_advantage() -> None:
    rewards, groups = np.full(6, 0.1), np.array([0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(leave_one_out(rewards, groups), 0, atol=1e-15)
    np.testing.assert_allclose(group_normalised(rewards, groups), 0, atol=1e-11)


@pytest.mark.parametrize(
    ("function", "what"), [(leave_one_out, "leave-one-out"), (group_normalised, "a group's standard deviation")]
)
def test_a_group_of_one_is_an_error(function, what: str) -> None:
    with pytest.raises(ValueError, match=rf"^{what} needs two responses or more to each prompt$"):
        function(np.array([1.0, 2.0, 3.0]), np.array([0, 0, 1]))
    assert function(np.array([]), np.array([], int)).size == 0
