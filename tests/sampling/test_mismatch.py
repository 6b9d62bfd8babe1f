"""How far the sampler is from the training forward: numbers worked by hand."""

import numpy as np
import pytest

from ppo_pipeline.maths.mismatch import mismatch


def test_distances_by_hand() -> None:
    """Differences 0, 0.01, ... 0.20, in any order and of either sign."""
    differences = np.arange(21) / 100 * np.where(np.arange(21) % 2, 1, -1)
    policy = np.linspace(-3, -1, 21)
    found = mismatch(policy, (policy + differences)[::1], np.ones(21))
    assert found["val/rollout_logprob_difference"] == pytest.approx(0.10)
    assert found["val/rollout_logprob_difference_p95"] == pytest.approx(0.19)
    assert found["val/rollout_logprob_difference_max"] == pytest.approx(0.20)


def test_effective_sample_size_by_hand() -> None:
    """Weights 0.5/0.25 = 2, 0.2/(0.2/0.5) = 0.5 and 0.1/0.2 = 0.5: 3^2 / (3 (4 + 1/4 + 1/4)) = 2/3."""
    policy, sampler = np.log([0.5, 0.2, 0.1]), np.log([0.25, 0.2, 0.2])
    found = mismatch(policy.astype(np.float32), sampler.astype(np.float32), np.array([1, 0.5, 1], np.float32))
    assert found["val/rollout_ess"] == pytest.approx(2 / 3)
    assert found["val/rollout_logprob_difference"] == pytest.approx(2 / 3 * np.log(2))


def test_without_any_difference() -> None:
    found = mismatch(np.full(5, -2.0), np.full(5, -2.0), np.ones(5))
    assert found["val/rollout_ess"] == pytest.approx(1.0)
    assert [v for k, v in found.items() if "difference" in k] == [0.0, 0.0, 0.0]


def test_one_token_that_outweighs_all_others_is_one_sample() -> None:
    policy = np.array([0.0, *[-50.0] * 99])
    assert mismatch(policy, np.full(100, -25.0), np.ones(100))["val/rollout_ess"] == pytest.approx(1 / 100)
