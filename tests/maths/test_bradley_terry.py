"""The Bradley-Terry loss, the metrics of preferences and the shift of a head, against hand-worked numbers and loops."""

from math import exp, log, sqrt

import numpy as np
import pytest
import torch

from ppo_pipeline.maths.bradley_terry import bradley_terry_losses
from ppo_pipeline.maths.centring import constant_direction
from ppo_pipeline.maths.preference_metrics import (
    agreement,
    brier_score,
    by_length,
    calibration_error,
    clustered_error,
    probabilities,
)

DIFFERENCES = np.array([2.0, -1.0, 0.5, 0.0, -0.3, 4.0, 60.0, -700.0])


def test_the_loss_and_its_gradient_by_hand() -> None:
    chosen = torch.tensor([1.0, 0.0, 300.0], requires_grad=True)
    rejected = torch.tensor([0.0, 2.0, -300.0], requires_grad=True)
    losses = bradley_terry_losses(chosen, rejected)
    assert losses.tolist() == pytest.approx([log(1 + exp(-1)), log(1 + exp(2)), 0.0])
    with_margin = bradley_terry_losses(chosen, rejected, torch.tensor([0.5, 0.0, 600.0]))
    assert with_margin.tolist() == pytest.approx([log(1 + exp(-0.5)), log(1 + exp(2)), log(2)])
    with_margin.sum().backward()
    slopes = [-1 / (1 + exp(0.5)), -1 / (1 + exp(-2)), -0.5]  # -(1 - sigmoid(r_c - r_r - m))
    assert chosen.grad.tolist() == pytest.approx(slopes)  # type: ignore[union-attr]
    assert rejected.grad.tolist() == pytest.approx([-s for s in slopes])  # type: ignore[union-attr]


def test_accuracy_and_brier_score_are_those_of_a_loop_and_a_tie_is_half_right() -> None:
    assert agreement(DIFFERENCES).tolist() == [1, 0, 1, 0.5, 0, 1, 1, 0]
    expected = [1 / (1 + exp(-d)) for d in DIFFERENCES]
    assert probabilities(DIFFERENCES) == pytest.approx(expected, abs=1e-15)
    assert brier_score(DIFFERENCES) == pytest.approx(sum((1 - p) ** 2 for p in expected) / 8)


def test_the_calibration_error_is_a_loop_s_over_bins_of_the_confidence() -> None:
    rng = np.random.default_rng(0)
    differences = rng.normal(0.4, 1.5, 400)
    bins: dict[int, list[tuple[float, bool]]] = {}
    for d in differences:
        p = 1 / (1 + exp(-d))
        confidence, right = (p, True) if p > 0.5 else (1 - p, False)
        bins.setdefault(int((confidence - 0.5) // 0.05), []).append((confidence, right))
    gaps = [abs(sum(c - r for c, r in found)) for found in bins.values()]
    assert calibration_error(differences) == pytest.approx(sum(gaps) / 400)
    assert calibration_error(np.array([800.0, 800.0])) == pytest.approx(0.0)  # sure, and right
    assert calibration_error(np.array([-800.0, 800.0])) == pytest.approx(0.5)  # sure, and right half the time
    assert calibration_error(np.zeros(3)) == pytest.approx(0.0)


def test_rewards_that_are_true_log_odds_are_calibrated_and_twice_as_large_ones_are_not() -> None:
    rng = np.random.default_rng(1)
    odds = rng.normal(0, 1.5, 40_000)
    differences = np.where(rng.random(40_000) < 1 / (1 + np.exp(-odds)), odds, -odds)
    assert calibration_error(differences) < 0.015
    assert calibration_error(2 * differences) > 0.08


def test_the_error_of_pairs_of_the_same_prompt_is_the_prompts() -> None:
    values, alone = np.array([1.0, 2.0, 3.0, 6.0]), np.arange(4)
    assert clustered_error(values, alone) == pytest.approx(sqrt((4 + 1 + 0 + 9) / 3 / 4))
    twice = clustered_error(np.repeat(values, 2), np.repeat(alone, 2))
    assert twice == pytest.approx(sqrt((4 + 1 + 0 + 9) / 3 / 4)), "a copy of each says nothing new"
    groups = np.array([0, 0, 1, 1])  # sums of (x - 3): -3 and 3
    assert clustered_error(values, groups) == pytest.approx(sqrt(2 * 18) / 4)
    assert clustered_error(values, np.zeros(4, np.int64)) is None


def test_length_by_hand() -> None:
    longer = np.array([3, 2, -1, 5, 0, -4, -2, 1])
    assert by_length(DIFFERENCES, longer) == pytest.approx({
        "longer_chosen": 4 / 7,
        "longer_preferred": (1 + 0 + 0 + 0.5 + 0 + 0 + 0) / 7,  # each right where longer, each wrong where shorter
        "accuracy_longer": (1 + 0 + 0.5 + 0) / 4,
        "accuracy_shorter": 3 / 3,
    })  # fmt: skip
    assert by_length(np.array([1.0]), np.array([0])) == {}
    assert by_length(np.array([1.0]), np.array([2])) == {
        "longer_chosen": 1, "longer_preferred": 1, "accuracy_longer": 1,
    }  # fmt: skip


def test_a_shift_along_the_direction_moves_the_mean_by_just_that_and_differences_least() -> None:
    rng = np.random.default_rng(2)
    hidden = rng.normal(0, 1, (500, 12)) @ rng.normal(0, 1, (12, 12)) + rng.normal(0, 2, 12)
    direction = constant_direction(hidden)
    assert hidden.mean(0) @ direction == pytest.approx(1.0, abs=1e-12)
    least = (hidden @ direction).std()
    for _ in range(20):
        other = direction + rng.normal(0, 0.3 * np.abs(direction).max(), 12)
        assert (hidden @ (other / (hidden.mean(0) @ other))).std() > least
    assert constant_direction(3 * hidden) == pytest.approx(direction / 3)


def test_behind_a_norm_with_a_bias_it_finds_what_is_exactly_constant() -> None:
    rng = np.random.default_rng(3)
    norm = torch.nn.LayerNorm(8)
    with torch.no_grad():
        norm.weight.copy_(torch.from_numpy(rng.uniform(0.5, 2, 8)))
        norm.bias.copy_(torch.from_numpy(rng.uniform(0.5, 1.5, 8)))  # so that sum b_i / g_i is not near 0
        hidden = norm(torch.from_numpy(rng.normal(0, 1, (20_000, 8))).float()).double().numpy()
    direction = constant_direction(hidden)
    constant = 1 / norm.weight.detach().double().numpy()  # sum (h_i - b_i) / g_i = 0 for all h
    constant /= hidden.mean(0) @ constant
    assert direction == pytest.approx(constant, rel=5e-3)
    assert (hidden @ direction).std() < 5e-3


def test_equal_states_move_by_their_own_direction_and_states_of_mean_0_are_refused() -> None:
    assert constant_direction(np.tile([3.0, 4.0], (5, 1))) == pytest.approx([3 / 25, 4 / 25])
    with pytest.raises(ValueError, match="mean 0"):
        constant_direction(np.array([[1.0, 0.0], [-1.0, 0.0]]))
