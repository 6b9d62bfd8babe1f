"""Standard errors, pass@k and majorities against enumeration, hand-worked numbers and slow loops."""

from itertools import combinations
from math import comb, sqrt

import numpy as np
import pytest

from ppo_pipeline.maths.heldout import majority, pass_at_k, powers_up_to, standard_error


def test_pass_at_k_is_the_share_of_choices_of_k_answers_with_a_right_one() -> None:
    for drawn in range(1, 8):
        for k in range(1, drawn + 1):
            for right in range(drawn + 1):
                choices = list(combinations([1] * right + [0] * (drawn - right), k))
                share = sum(any(choice) for choice in choices) / len(choices)
                assert pass_at_k(np.array([right]), drawn, k) == pytest.approx([share])


def test_pass_at_k_of_many_answers_is_the_equation_s() -> None:
    right = np.array([0, 1, 17, 199, 200])
    for k in (1, 2, 64, 200):
        exact = [float(1 - comb(200 - c, k) / comb(200, k)) for c in right.tolist()]
        assert pass_at_k(right, 200, k) == pytest.approx(exact, abs=1e-12)
    for k in (0, 201):
        with pytest.raises(ValueError, match="of 200 answers"):
            pass_at_k(right, 200, k)


def test_k_goes_by_powers_of_two_to_the_number_of_answers() -> None:
    assert [powers_up_to(n) for n in (1, 2, 3, 8, 9)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8], [1, 2, 4, 8, 9]]


def test_the_standard_error_by_hand() -> None:
    assert standard_error(np.array([1.0, 2.0, 3.0, 6.0])) == pytest.approx(sqrt((4 + 1 + 0 + 9) / 3 / 4))
    assert standard_error(np.array([1.0])) is None
    assert standard_error(np.array([])) is None


def test_of_means_by_prompt_it_is_the_clustered_one() -> None:
    """Miller 2024, with its finite-sample factor: a sum over pairs of answers to one prompt."""
    answers = np.random.default_rng(0).normal(size=(7, 3)) + np.arange(7)[:, None]
    centre, pairs = answers.mean(), 0.0
    for prompt in answers:
        for one in prompt:
            for other in prompt:
                pairs += (one - centre) * (other - centre)
    clustered = sqrt(pairs * 7 / 6) / answers.size
    assert standard_error(answers.mean(axis=1)) == pytest.approx(clustered)
    assert standard_error(answers.ravel()) < clustered / 1.5, "answers to one prompt are alike"


def test_the_majority_is_the_first_drawn_of_the_most_frequent() -> None:
    assert majority(["a", "b", "c", "b"]) == 1
    assert majority(["a", "b", "b", "a"]) == 0
    assert majority(["c", "b", "b", "a", "a"]) == 1
