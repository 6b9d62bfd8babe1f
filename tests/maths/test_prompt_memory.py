"""The memory of prompts: what it keeps, by hand and by a slow loop; which prompts it chooses; what SPO makes of it."""

from itertools import permutations

import numpy as np
import pyarrow as pa
import pytest

from ppo_pipeline.maths.estimators.spo import spo
from ppo_pipeline.maths.forgetting import forgetting_mean
from ppo_pipeline.maths.prompt_choice import drawn_by_weight, informative_weights
from ppo_pipeline.tables.prompt_scores import PROMPT_SCORES
from ppo_pipeline.training.batches import prompts_of_round
from ppo_pipeline.training.prompt_memory import remembered, updated
from ppo_pipeline.training.round_prompts import round_prompts

EMPTY = PROMPT_SCORES.arrow.empty_table()


def test_a_forgetting_mean_by_hand() -> None:
    """3 values of mean 2, of which half is kept, and then 4 and 6: (1.5 x 2 + 10) / 3.5."""
    assert forgetting_mean(2.0, 3.0, 10.0, 2, 0.5) == pytest.approx((13 / 3.5, 3.5))
    assert forgetting_mean(2.0, 3.0, 10.0, 2, 0.0) == (5.0, 2.0)
    assert forgetting_mean(2.0, 3.0, 10.0, 2, 1.0) == (16 / 5, 5.0)


def test_it_is_spo_s_beta_tracker() -> None:
    """alpha <- rho alpha + r, beta <- rho beta + 1 - r, for rewards 0 and 1."""
    alpha = beta = mean = weight = 0.0
    for reward in (1, 0, 0, 1, 1, 0, 1):
        alpha, beta = 0.9 * alpha + reward, 0.9 * beta + 1 - reward
        mean, weight = forgetting_mean(mean, weight, reward, 1, 0.9)
        assert (mean, weight) == pytest.approx((alpha / (alpha + beta), alpha + beta))


def test_the_memory_after_rounds_is_a_slow_loop_s() -> None:
    """Each response counts discount ** (later rounds with its prompt); the second round says nothing of right ones."""
    rng, memory, seen = np.random.default_rng(0), EMPTY, []
    for depth in range(1, 6):
        ids = rng.choice(["q", "p", "s", "r"][: 2 + depth // 2], 7).tolist()
        rewards, right = rng.normal(size=7), (rng.random(7) < 0.5).tolist()
        judged = None if depth == 2 else right
        known = remembered(memory, ids)
        for prompt_id, value in zip(ids, known, strict=True):
            mine = [(r, w) for r, _, p, w in weighed(seen) if p == prompt_id]
            expected = sum(r * w for r, w in mine) / sum(w for _, w in mine) if mine else np.nan
            assert value == pytest.approx(expected, nan_ok=True)
        memory = PROMPT_SCORES.checked(updated(memory, ids, rewards, judged, depth, 0.7), "memory")
        seen.append([*zip(rewards, judged or [None] * 7, ids, strict=True)])
    assert memory.column("prompt_id").to_pylist() == ["p", "q", "r", "s"]
    for row in memory.to_pylist():
        mine = [(r, c, w) for r, c, p, w in weighed(seen) if p == row["prompt_id"]]
        assert row["samples"] == len(mine)
        assert row["weight"] == pytest.approx(sum(w for *_, w in mine))
        assert row["reward_mean"] == pytest.approx(sum(r * w for r, _, w in mine) / sum(w for *_, w in mine))
        assert row["depth"] == max(d for d, of in enumerate(seen, 1) if row["prompt_id"] in [p for *_, p in of])
        of_judged = [of for d, of in enumerate(seen, 1) if d != 2]
        judged_ones = [(c, w) for _, c, p, w in weighed(of_judged) if p == row["prompt_id"]]
        assert row["judged"] == pytest.approx(sum(w for _, w in judged_ones))
        assert row["right"] == pytest.approx(sum(w for c, w in judged_ones if c))


def weighed(rounds: list) -> list:
    """Return (reward, correct, prompt, weight) of each response of these rounds."""
    found = []
    for place, responses in enumerate(rounds):
        for reward, correct, prompt_id in responses:
            later = sum(any(p == prompt_id for *_, p in other) for other in rounds[place + 1 :])
            found.append((reward, correct, prompt_id, 0.7**later))
    return found


def test_spo_by_hand() -> None:
    """Sums 3, 1, -1; v is 2 for the first, unknown for the second (the round's mean, 1), -3 for the third."""
    rewards, lengths = np.array([1.0, 2.0, 1.0, -2.0, 0.0, 1.0]), np.array([2, 1, 3])
    found = spo(rewards, lengths, np.array([2.0, np.nan, -3.0]))
    assert found.advantages.tolist() == [1, 1, 0, 2, 2, 2]
    assert found.returns is None


def test_prompts_that_are_half_right_weigh_most() -> None:
    """None seen: p = 1/2. Four of four: p = 4.5 / 5, and the mirror image for none of four."""
    found = informative_weights(np.array([0.0, 4.0, 0.0, 2.0]), np.array([0.0, 4.0, 4.0, 4.0]))
    assert found == pytest.approx([0.55, 0.35, 0.35, 0.55])


def test_a_draw_by_weight_has_the_odds_of_drawing_one_after_the_other() -> None:
    """Every order of two of four, over 20,000 draws, within five standard errors of its probability."""
    weights, rng, draws = np.array([1.0, 2.0, 3.0, 0.5]), np.random.default_rng(0), 20_000
    counts = dict.fromkeys(permutations(range(4), 2), 0)
    for uniforms in rng.random((draws, 4)):
        counts[tuple(drawn_by_weight(weights, uniforms, 2).tolist())] += 1
    for (first, second), count in counts.items():
        p = weights[first] / 6.5 * weights[second] / (6.5 - weights[first])
        assert abs(count / draws - p) < 5 * (p * (1 - p) / draws) ** 0.5


def test_an_informative_round_draws_anew_and_a_shuffled_one_is_as_ever() -> None:
    ids = [f"p{i}" for i in range(40)]
    prompts = pa.table({"prompt_id": [*ids, "held"], "split": ["train"] * 40 + ["heldout"]})
    easy = updated(EMPTY, ids[:20] * 50, np.zeros(1000), [True] * 1000, 1, 1.0)

    def drawn(depth: int, seed: int = 0, choice: str = "informative") -> list[str]:
        return round_prompts(prompts, 10, depth, seed, choice, easy).column("prompt_id").to_pylist()

    assert drawn(3) == drawn(3) and len({*drawn(3)}) == 10 and "held" not in drawn(3)
    assert drawn(3) != drawn(4) and drawn(3) != drawn(3, seed=1)
    share = np.mean([int(name[1:]) < 20 for depth in range(60) for name in drawn(depth)])
    assert 0.1 < share < 0.3, "weights 0.12 and 0.55"
    assert drawn(3, choice="shuffle") == [ids[i] for i in prompts_of_round(40, 10, 3, 0)]
