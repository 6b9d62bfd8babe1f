"""The weights of a rollout correction: numbers worked by hand, slow loops and exact averages over all draws."""

import itertools
import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from ppo_pipeline.maths.rollout_correction import correction_weights

FORMS = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "geometric_mask")
RATIOS = st.lists(st.floats(-4, 4), min_size=1, max_size=9)
LOWS, HIGHS = st.none() | st.floats(0.01, 0.99), st.floats(1.01, 20)

# Ratios 2, 0.25, 4: their product is 2 and their geometric mean 1.26.
BY_HAND = [
    ("token_truncate", None, 3.0, [2, 0.25, 3], [0, 0, 1]),
    ("token_truncate", 0.5, 3.0, [2, 0.5, 3], [0, 1, 1]),
    ("token_mask", None, 3.0, [2, 0.25, 0], [0, 0, 1]),
    ("token_mask", 0.5, 3.0, [2, 0, 0], [0, 1, 1]),
    ("sequence_truncate", None, 1.5, [1.5, 1.5, 1.5], [1, 1, 1]),
    ("sequence_truncate", None, 3.0, [2, 2, 2], [0, 0, 0]),
    ("sequence_mask", None, 1.5, [0, 0, 0], [1, 1, 1]),
    ("sequence_mask", None, 3.0, [2, 2, 2], [0, 0, 0]),
    ("geometric_mask", None, 1.2, [0, 0, 0], [1, 1, 1]),
    ("geometric_mask", None, 1.3, [2, 0.25, 4], [0, 0, 0]),
]
# Ratios 0.5, 0.5: their product is 0.25 and their geometric mean 0.5.
BELOW = [
    ("sequence_truncate", 0.3, [0.3, 0.3], 1),
    ("sequence_truncate", 0.2, [0.25, 0.25], 0),
    ("sequence_mask", 0.3, [0, 0], 1),
    ("sequence_mask", 0.2, [0.25, 0.25], 0),
    ("geometric_mask", 0.6, [0, 0], 1),
    ("geometric_mask", 0.3, [0.5, 0.5], 0),
]


def logs(*ratios: float) -> torch.Tensor:
    return torch.tensor(ratios, dtype=torch.float64).log()


@pytest.mark.parametrize(("form", "low", "high", "weights", "outside"), BY_HAND)
def test_by_hand(form: str, low: float | None, high: float, weights: list[float], outside: list[int]) -> None:
    found, beyond = correction_weights(logs(2, 0.25, 4), form, low, high)
    assert found.tolist() == pytest.approx(weights)
    assert beyond.tolist() == [bool(x) for x in outside]


@pytest.mark.parametrize(("form", "low", "weights", "outside"), BELOW)
def test_the_lower_bound_of_a_response_by_hand(form: str, low: float, weights: list[float], outside: int) -> None:
    found, beyond = correction_weights(logs(0.5, 0.5), form, low, 2.0)
    assert found.tolist() == pytest.approx(weights)
    assert beyond.tolist() == [bool(outside)] * 2


@given(RATIOS, LOWS, HIGHS, st.sampled_from(FORMS))
def test_the_weights_are_a_slow_loop_s(log_ratios: list[float], low: float | None, high: float, form: str) -> None:
    """The loop multiplies ratios one by one and follows the cases, without logarithms."""
    floor = 0.0 if low is None else low
    product = math.prod(math.exp(x) for x in log_ratios)
    weights, outside = [], []
    for x in log_ratios:
        own = product if form.startswith("sequence") else math.exp(x)
        judged = product ** (1 / len(log_ratios)) if form == "geometric_mask" else own
        assume(min(abs(judged - floor), abs(judged - high)) > 1e-9)  # else they may round to different sides
        if judged > high:
            weights.append(high if form.endswith("truncate") else 0.0)
        elif judged < floor:
            weights.append(floor if form.endswith("truncate") else 0.0)
        else:
            weights.append(own)
        outside.append(judged > high or judged < floor)
    found, beyond = correction_weights(torch.tensor(log_ratios, dtype=torch.float64), form, low, high)
    assert found.tolist() == pytest.approx(weights)
    assert beyond.tolist() == outside


@given(st.floats(-4, 4), LOWS, HIGHS, st.sampled_from(["truncate", "mask"]))
def test_for_a_response_of_one_token_all_levels_are_one(x: float, low: float | None, high: float, beyond: str) -> None:
    log_ratio = torch.tensor([x], dtype=torch.float64)
    levels = ["token", "sequence", *["geometric"] * (beyond == "mask")]
    found = [correction_weights(log_ratio, f"{level}_{beyond}", low, high) for level in levels]
    assert all(torch.equal(w, found[0][0]) and torch.equal(o, found[0][1]) for w, o in found)


# A policy and a sampler over three tokens, the second token's probabilities given the first.
P1, Q1 = [0.5, 0.3, 0.2], [0.2, 0.5, 0.3]
P2, Q2 = [[0.1, 0.2, 0.7], [0.6, 0.3, 0.1], [0.3, 0.3, 0.4]], [[0.3, 0.3, 0.4], [0.5, 0.4, 0.1], [0.2, 0.4, 0.4]]


RESPONSES = list(itertools.product(range(3), repeat=2))
P, Q = ({(a, b): first[a] * second[a][b] for a, b in RESPONSES} for first, second in ((P1, P2), (Q1, Q2)))
NUMBER = {(a, b): [1.0, -2.0, 5.0][a] * [3.0, 1.0, 4.0][b] for a, b in RESPONSES}


def weighted_average(form: str, low: float | None, high: float) -> float:
    """Return the average over the sampler's responses of the number, each times its first token's weight."""
    ratios = {(a, b): logs(P1[a] / Q1[a], P2[a][b] / Q2[a][b]) for a, b in RESPONSES}
    return sum(Q[r] * correction_weights(ratios[r], form, low, high)[0][0].item() * NUMBER[r] for r in RESPONSES)


@pytest.mark.parametrize("form", ["sequence_truncate", "sequence_mask"])
def test_a_response_s_ratio_makes_an_average_over_draws_that_of_the_policy(form: str) -> None:
    """Exactly, over all nine responses; no ratio reaches the bound. A token's own ratio does not."""
    expected = sum(P[r] * NUMBER[r] for r in RESPONSES)
    assert weighted_average(form, None, 100.0) == pytest.approx(expected)
    assert sum(Q[r] * NUMBER[r] for r in RESPONSES) != pytest.approx(expected, rel=0.1)
    assert weighted_average(form.replace("sequence", "token"), None, 100.0) != pytest.approx(expected, rel=0.1)


def test_a_mask_leaves_the_policy_s_average_over_what_it_keeps() -> None:
    kept = [r for r in RESPONSES if 0.55 <= P[r] / Q[r] <= 1.5]
    assert 0 < len(kept) < 9
    assert weighted_average("sequence_mask", 0.55, 1.5) == pytest.approx(sum(P[r] * NUMBER[r] for r in kept))


@pytest.mark.parametrize("form", ["token_truncate", "token_mask"])
def test_a_token_s_ratio_makes_the_average_at_one_place_that_of_the_policy(form: str) -> None:
    """That of the second token, after each first one."""
    for a in range(3):
        ratios = [correction_weights(logs(1, P2[a][b] / Q2[a][b]), form, None, 100.0)[0][1].item() for b in range(3)]
        weighted = sum(Q2[a][b] * ratios[b] * NUMBER[a, b] for b in range(3))
        assert weighted == pytest.approx(sum(P2[a][b] * NUMBER[a, b] for b in range(3)))


@pytest.mark.parametrize(
    ("sign", "form", "weight"),
    [
        (1, "sequence_truncate", 2.0), (1, "sequence_mask", 0.0),
        (-1, "sequence_truncate", 0.5), (-1, "sequence_mask", 0.0),
    ],
)  # fmt: skip
def test_the_product_over_a_long_response_is_beyond_floating_point(sign: int, form: str, weight: float) -> None:
    """e^2000 is no number in float64, nor is e^-2000 other than 0; the geometric mean, e^0.5, is one."""
    log_ratios = torch.full((4000,), 0.5 * sign, dtype=torch.float64)
    found, outside = correction_weights(log_ratios, form, 0.5, 2.0)
    assert set(found.tolist()) == {weight} and outside.all()
    assert not correction_weights(log_ratios, "geometric_mask", 0.5, 2.0)[1].any()
