"""RLOO and GRPO against the statements of TRL 1.12.0's own trainers."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trl_source import run

from ppo_pipeline.maths.estimators.grpo import group_normalised
from ppo_pipeline.maths.estimators.rloo import leave_one_out
from ppo_pipeline.maths.kl import kl_estimate
from ppo_pipeline.maths.rewards import token_rewards

METHOD = "_generate_and_score_completions"
FP32 = 1e-6  # TRL computes the variance's factor n / (n - 1) in fp32 even here


def rewards_of(seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return rewards, their groups (in a row, as TRL wants them) and the groups' size."""
    rng = np.random.default_rng(seed)
    size, count = int(rng.integers(2, 7)), int(rng.integers(1, 6))
    return rng.normal(size=size * count), np.repeat(np.arange(count), size), size


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_grpo(seed: int) -> None:
    rewards, groups, size = rewards_of(seed)
    trainer = importlib.import_module("trl.trainer.grpo_trainer")
    after = run(
        "mean_grouped_rewards", "is_std_zero", (trainer, "GRPOTrainer", METHOD), rewards=torch.tensor(rewards),
        num_generations=size, self=SimpleNamespace(scale_rewards="group"),
    )  # fmt: skip
    np.testing.assert_allclose(group_normalised(rewards, groups), after.advantages, rtol=0, atol=FP32)


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_rloo_with_its_kl_in_the_reward(seed: int) -> None:
    """TRL's takes the KL of the whole response from the reward: our kl_penalty sequence_sum, or token without gamma."""
    scores, groups, size = rewards_of(seed)
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 6, len(scores))
    mask = np.arange(5) < lengths[:, None]
    policy, reference = rng.normal(size=(2, *mask.shape))
    trainer = importlib.import_module("trl.trainer.rloo_trainer")
    after = run(
        "per_token_kl", "rewards", (trainer, "RLOOTrainer", METHOD), gather=lambda x: x, rewards=torch.tensor(scores),
        old_per_token_logps=torch.tensor(policy), ref_per_token_logps=torch.tensor(reference),
        completion_mask=torch.tensor(mask), self=SimpleNamespace(beta=0.05),
    )  # fmt: skip
    after = run(
        "grouped_rewards", "is_std_zero", (trainer, "RLOOTrainer", METHOD), rewards=after.rewards,
        num_generations=size, self=SimpleNamespace(normalize_advantages=False),
    )  # fmt: skip
    kl = kl_estimate(policy[mask], reference[mask], "k1")
    for where in ("token", "sequence_sum"):
        per_token = token_rewards(kl, scores, lengths, 0.05, where)
        sums = np.add.reduceat(per_token, np.cumsum(lengths) - lengths)
        np.testing.assert_allclose(leave_one_out(sums, groups), after.advantages, rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_equal_rewards_give_none_in_both(seed: int) -> None:
    trainer = importlib.import_module("trl.trainer.grpo_trainer")
    after = run(
        "mean_grouped_rewards", "is_std_zero", (trainer, "GRPOTrainer", METHOD),
        rewards=torch.full((8,), 0.5 * seed, dtype=torch.float64), num_generations=4,
        self=SimpleNamespace(scale_rewards="group"),
    )  # fmt: skip
    assert after.advantages.tolist() == [0] * 8
    assert group_normalised(np.full(8, 0.5 * seed), np.arange(8) // 4).tolist() == [0] * 8
