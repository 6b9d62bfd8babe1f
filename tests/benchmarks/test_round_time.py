"""The model of a round's time: its schedule against one that looks at every moment, and what it says of extremes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.round_time import POOLED, Load, Rates, fitted, heaviest_rank, makespan, shard_steps, stages

LENGTHS = np.array([5, 40, 3, 8, 20, 1, 9, 12])
PROMPTS = np.array([10, 10, 30, 30, 10, 10, 20, 20])
LOAD = Load(PROMPTS, LENGTHS, LENGTHS[:4], 2, 60, 2, 2, 4, 1e6)
RATES = Rates(0.5, 0.01, 0.03, dict.fromkeys(POOLED, 7.0), dict.fromkeys(POOLED, 3.0), 11.0, 1e9)


def moment_by_moment(tasks: list[int], workers: int) -> int:
    """Return when the last task is done; at every whole second each worker without work takes the next task."""
    left, queue, now = [0] * workers, list(tasks), 0
    while queue or any(left):
        for worker in range(workers):
            while not left[worker] and queue:
                left[worker] = queue.pop(0)
        now += any(left)
        left = [max(0, seconds - 1) for seconds in left]
    return now


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 5))
def test_the_schedule_is_that_of_workers_who_take_the_next_task_when_free(tasks: list[int], workers: int) -> None:
    assert makespan(tasks, workers) == moment_by_moment(tasks, workers)


def test_a_shard_takes_as_long_as_its_longest_response_and_begins_by_its_prompts() -> None:
    assert shard_steps(PROMPTS, LENGTHS, 2) == [8, 12, 40, 20]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_ranks_wait_for_the_one_with_most_tokens(workers: int) -> None:
    most = heaviest_rank(LENGTHS, 4, workers)
    assert LENGTHS.sum() / workers <= most <= LENGTHS.sum()
    assert workers > 1 or most == LENGTHS.sum()


def test_one_worker_does_all_of_it_one_after_the_other() -> None:
    tokens = int((PROMPTS + LENGTHS).sum())
    expected = {
        "rollout": 10 + 0.5 * (8 + 12 + 40 + 20),
        "reference": 10 + 2 * 0.01 * tokens,
        "update": 10 + 2 * 0.03 * tokens,
        "evaluate": 10 + 0.5 * (40 + 8),
        "driver": 11.0,
    }
    assert stages(LOAD, RATES, 1) == pytest.approx(expected)


def test_workers_without_end_wait_for_the_longest_shard_and_for_the_network() -> None:
    found = stages(LOAD, replace(RATES, train=0.0, link=1e3), 1024)
    assert found["rollout"] == pytest.approx(10 + 0.5 * 40)
    exchange = 2 * 1e6 * 3 / 4 / 1e3  # four ranks, as there are four groups
    assert found["update"] == pytest.approx(10 + 2 * 2 * exchange)


def test_what_is_fitted_to_a_round_gives_that_round_again() -> None:
    told: dict[str, list[dict[str, Any]]] = {"rollout": [{"busy_seconds": 40.0}], "reference": [{"busy_seconds": 6.0}],
            "evaluate": [{"busy_seconds": 24.0}], "update": [{"node": "a"}]}  # fmt: skip
    measured = {"rollout": 52.0, "reference": 15.5, "update": 33.0, "evaluate": 35.0}
    one = {"stages": measured, "ready": dict.fromkeys(POOLED, 8.0), "workers_told": told, "seconds": 150.0}
    two = {"workers_told": {"rollout": [{"busy_seconds": 25.0}, {"busy_seconds": 35.0}]}}
    rates = fitted(LOAD, one, two)
    assert stages(LOAD, rates, 1) == pytest.approx({**measured, "driver": 150 - sum(measured.values())})
    assert rates.crowd == pytest.approx(1.5)
    assert rates.rest["update"] == rates.rest["reference"] == pytest.approx(1.5)
