"""What goes from round to round: the scores' running scale, learning rates, the adaptive KL, the controllers' file."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.maths.schedule import adapted_kl_coef, learning_rate_factor
from ppo_pipeline.maths.scores import judge_missing_eos, merged_moments, overlong_penalties, scaled
from ppo_pipeline.tables.controllers import Controllers

SCORES = st.lists(st.floats(-1000, 1000), max_size=9)


def test_missing_ends_by_hand() -> None:
    scores, cut = np.array([1.0, 2.0, -3.0]), np.array([False, True, True])
    assert judge_missing_eos(scores, cut, None, None).tolist() == [1, 2, -3]
    assert judge_missing_eos(scores, cut, 0.5, None).tolist() == [1, 1.5, -3.5]
    assert judge_missing_eos(scores, cut, None, -1.0).tolist() == [1, -1, -1]
    assert judge_missing_eos(scores, cut, None, 0.0).tolist() == [1, 0, 0]
    assert scores.tolist() == [1, 2, -3]


def test_overlong_penalties_by_hand() -> None:
    """At most 20 tokens, the last 4 of them punished: a quarter of the penalty each."""
    lengths = np.array([1, 16, 17, 18, 20])
    assert overlong_penalties(lengths, 20, 4, 2.0).tolist() == [0, 0, -0.5, -1.0, -2.0]
    assert overlong_penalties(lengths, 20, 20, 1.0).tolist() == pytest.approx([-0.05, -0.8, -0.85, -0.9, -1.0])


@given(st.lists(SCORES, min_size=1, max_size=6))
def test_running_moments_over_rounds_are_those_of_all_scores_together(rounds: list[list[float]]) -> None:
    state = (0, 0.0, 0.0)
    for scores in rounds:
        state = merged_moments(*state, np.array(scores))
    together = np.array([score for scores in rounds for score in scores])
    assert state[0] == len(together)
    if len(together):
        assert state[1] == pytest.approx(together.mean(), abs=1e-9)
        assert state[2] == pytest.approx(together.var(), rel=1e-9, abs=1e-7)


def test_moments_of_scores_far_from_0_keep_their_digits() -> None:
    state = (0, 0.0, 0.0)
    for scores in ([1e9 + 1, 1e9 + 2], [1e9 + 3], [1e9 + 4, 1e9 + 5]):
        state = merged_moments(*state, np.array(scores))
    assert state == (5, 1e9 + 3, pytest.approx(2.0))


def test_scaling_by_hand() -> None:
    # 1, 3, 5: mean 3, biased variance 8 / 3, unbiased 4
    scores, moments = np.array([1.0, 5.0]), (3, 3.0, 8 / 3)
    np.testing.assert_allclose(scaled(scores, *moments, shift=False), [0.5, 2.5])
    np.testing.assert_allclose(scaled(scores, *moments, shift=True), [-1, 1])
    for moments in ((1, 5.0, 0.0), (4, 5.0, 0.0), (0, 0.0, 0.0)):  # no scale yet: the deviation counts as 1
        np.testing.assert_allclose(scaled(scores, *moments, shift=False), scores)
        np.testing.assert_allclose(scaled(scores, *moments, shift=True), scores - moments[1])


def test_scaled_scores_of_one_round_have_deviation_1() -> None:
    scores = np.random.default_rng(0).normal(5, 3, 200)
    found = scaled(scores, *merged_moments(0, 0.0, 0.0, scores), shift=True)
    assert found.mean() == pytest.approx(0, abs=1e-12)
    assert found.std(ddof=1) == pytest.approx(1)


HALF = math.sqrt(0.5)


@pytest.mark.parametrize(
    ("schedule", "warmup", "total", "factors"),
    [
        ("constant", 0, None, [1, 1, 1, 1, 1, 1]),
        ("constant", 3, None, [1 / 4, 2 / 4, 3 / 4, 1, 1, 1]),
        ("linear", 0, 4, [1, 3 / 4, 2 / 4, 1 / 4, 1 / 4, 1 / 4]),
        ("linear", 1, 5, [1 / 2, 1, 3 / 4, 2 / 4, 1 / 4, 1 / 4]),
        ("linear", 2, 3, [1 / 3, 2 / 3, 1, 1, 1, 1]),
        ("cosine", 0, 4, [1, (1 + HALF) / 2, 1 / 2, (1 - HALF) / 2, (1 - HALF) / 2, (1 - HALF) / 2]),
        ("cosine", 2, 5, [1 / 3, 2 / 3, 1, 3 / 4, 1 / 4, 1 / 4]),
    ],
)
def test_learning_rates_by_hand(schedule: str, warmup: int, total: int | None, factors: list[float]) -> None:
    found = [learning_rate_factor(depth, schedule, warmup, total) for depth in range(1, 7)]
    assert found == pytest.approx(factors)


@given(st.sampled_from(["constant", "linear", "cosine"]), st.integers(0, 9), st.integers(1, 30), st.integers(1, 60))
def test_a_learning_rate_is_never_0_nor_above_its_setting(schedule: str, warmup: int, more: int, depth: int) -> None:
    factors = [learning_rate_factor(d, schedule, warmup, warmup + more) for d in range(1, depth + 1)]
    assert all(0 < f <= 1 for f in factors)
    assert factors[: warmup + 1] == sorted(factors[: warmup + 1])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)


def test_an_unknown_schedule_is_an_error() -> None:
    with pytest.raises(ValueError, match="'square'; use constant, linear or cosine"):
        learning_rate_factor(2, "square", 0, 4)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (6.0, 0.2),  # on target
        (6.6, 0.2 * (1 + 0.1 * 256 / 10_000)),
        (5.4, 0.2 * (1 - 0.1 * 256 / 10_000)),
        (60.0, 0.2 * (1 + 0.2 * 256 / 10_000)),  # relative errors are clipped to 0.2
        (-60.0, 0.2 * (1 - 0.2 * 256 / 10_000)),
    ],
)
def test_the_adaptive_kl_by_hand(kl: float, expected: float) -> None:
    """With the settings of Ziegler et al. 2019 and TRL's former AdaptiveKLController: 0.2, 6 nats, horizon 10,000."""
    assert adapted_kl_coef(0.2, kl, 6.0, 10_000, 256) == pytest.approx(expected, rel=1e-12)


@given(st.floats(1e-3, 10), st.floats(0.1, 50), st.integers(10, 100_000), st.integers(1, 40))
def test_the_adaptive_kl_moves_towards_its_target(coef: float, target: float, horizon: int, samples: int) -> None:
    below, on, above = (adapted_kl_coef(coef, f * target, target, horizon, samples) for f in (0.5, 1.0, 2.0))
    assert 0 < below < coef < above
    assert on == pytest.approx(coef)


STATES = st.builds(
    Controllers, st.none() | st.floats(0, 10), st.integers(0, 10**9), st.floats(-1e6, 1e6), st.floats(0, 1e12)
)


@given(STATES)
def test_controllers_come_back_bit_by_bit(tmp_path_factory: pytest.TempPathFactory, state: Controllers) -> None:
    """From their own file, and from a checkpoint's state.json."""
    path = tmp_path_factory.mktemp("controllers") / "c.json"
    state.write(path)
    assert Controllers.read(path) == state
    path.write_text(json.dumps({"optimizer_step": 3, "controllers": json.loads(path.read_text())}))
    assert Controllers.read(path) == state


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"kl": 1}', '{"controllers": null}', "\x80"])
def test_a_damaged_file_of_controllers_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(PipelineError, match=r"c\.json: damaged .*; delete it and rerun"):
        Controllers.read(tmp_path / "c.json")
    with pytest.raises(PipelineError, match=r"d\.json: no such file; `dvc repro` makes it"):
        Controllers.read(tmp_path / "d.json")
