"""Minibatches, token budgets, the prompts of a round, and a table's rows as tensors."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppo_pipeline.tables.schema import ragged
from ppo_pipeline.training.batches import by_token_budget, generator, prompts_of_round, shuffled_minibatches
from ppo_pipeline.training.data import sampled


@given(st.integers(1, 200), st.integers(1, 20), st.integers(0, 50))
def test_minibatches_partition_the_samples_evenly(count: int, minibatches: int, seed: int) -> None:
    parts = shuffled_minibatches(count, minibatches, generator(seed))
    assert len(parts) == minibatches
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_minibatches_are_shuffled_anew_by_each_key_and_alike_by_one() -> None:
    def order(*key: object) -> list[int]:
        return np.concatenate(shuffled_minibatches(50, 4, generator(*key))).tolist()

    assert order(0, "r001", "update") == order(0, "r001", "update")
    orders = [order(0, "r001", "update"), order(1, "r001", "update"), order(0, "r002", "update"), list(range(50))]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


def test_one_generator_shuffles_each_epoch_differently() -> None:
    rng = generator(0)
    first, second = (np.concatenate(shuffled_minibatches(50, 2, rng)).tolist() for _ in range(2))
    assert first != second


def test_budget_by_hand() -> None:
    # Longest first: 9 > 8 is alone; 4 x 2 <= 8; then 3, 1: padded to 3, two of them are 6 <= 8.
    found = by_token_budget(np.array([3, 4, 9, 1, 4]), 8)
    assert [batch.tolist() for batch in found] == [[2], [1, 4], [0, 3]]


def test_budget_of_sequences_laid_end_to_end_by_hand() -> None:
    # Behind 2 common tokens: 9 > 8 - 2 is alone; 4, then 4 + 3 > 6: alone; 3 + 1 + 1 <= 6.
    found = by_token_budget(np.array([3, 4, 9, 1, 4, 1]), 8, prefix=2, padded=False)
    assert [batch.tolist() for batch in found] == [[2], [1], [4], [0, 3, 5]]


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 100), st.integers(0, 9), st.booleans())
def test_every_sample_is_in_one_batch_within_the_budget(
    counts: list[int], budget: int, prefix: int, padded: bool
) -> None:
    lengths = np.array(counts, dtype=np.int64)
    batches = by_token_budget(lengths, budget, prefix, padded)
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(counts)))
    for batch in batches:
        tokens = len(batch) * lengths[batch].max() if padded else lengths[batch].sum()
        assert tokens + prefix <= budget or len(batch) == 1
    longest = [lengths[batch].max() for batch in batches]
    assert longest == sorted(longest, reverse=True)
    for batch, after in pairwise(batches):  # no batch could have taken the next sample too
        more = (len(batch) + 1) * lengths[batch].max() if padded else lengths[[*batch, after[0]]].sum()
        assert more + prefix > budget, (batch, after)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 20))
def test_no_round_has_a_prompt_twice(count: int, per_round: int, seed: int) -> None:
    per_round = min(count, per_round)
    for depth in range(1, 8):
        chosen = prompts_of_round(count, per_round, depth, seed).tolist()
        assert len(set(chosen)) == len(chosen) == per_round
        assert set(chosen) <= set(range(count))


@pytest.mark.parametrize(("count", "per_round"), [(12, 4), (12, 12), (5, 1)])
def test_a_pass_uses_every_prompt_once_and_the_next_pass_is_shuffled_anew(count: int, per_round: int) -> None:
    in_pass = count // per_round
    passes = [
        [i for place in range(in_pass) for i in prompts_of_round(count, per_round, which * in_pass + place + 1, 7)]
        for which in range(3)
    ]
    for chosen in passes:
        assert sorted(chosen) == list(range(count))
    assert passes[0] != passes[1] != passes[2]
    assert passes[0] != [i for depth in range(1, in_pass + 1) for i in prompts_of_round(count, per_round, depth, 8)]


def test_the_rest_of_an_uneven_pass_is_left_out() -> None:
    """10 prompts, 4 a round: a pass is two rounds without a common prompt; the third starts a new pass."""
    rounds = [set(prompts_of_round(10, 4, depth, 0).tolist()) for depth in range(1, 41)]
    for first, second in zip(rounds[::2], rounds[1::2], strict=True):
        assert not first & second
    assert set.union(*rounds) == set(range(10))  # what one pass leaves out, another takes


def test_rows_as_tensors_also_from_a_slice_with_an_empty_list() -> None:
    ids = ragged(np.arange(6), np.array([2, 0, 1, 3]), pa.int32())
    table = pa.table({"sample_id": list("abcd"), "prompt_ids": [[7], [8, 9], [7], [7]], "response_ids": ids})
    for part, start in ((table, 0), (table.slice(1), 1)):
        found = sampled(part)
        assert found.sample_ids == list("abcd")[start:]
        assert [r.tolist() for r in found.responses] == [[0, 1], [], [2], [3, 4, 5]][start:]
        assert [p.tolist() for p in found.prompts] == [[7], [8, 9], [7], [7]][start:]
        assert found.total_lengths.tolist() == [3, 2, 2, 4][start:]
