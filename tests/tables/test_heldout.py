"""Metrics of held-out answers from hand-made tables; what counts as a vote."""

from typing import Any

import pyarrow as pa
import pytest

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.rewards.types.rule import RuleComponent
from ppo_pipeline.tables.evaluation import EVALUATION, EVALUATION_SAMPLES
from ppo_pipeline.tables.heldout import by_prompt, heldout_metrics


def answers(correct: list[bool] | None = None) -> pa.Table:
    """Two prompts: a score of 1 and 0, `brief` 2 and 4, of 3 tokens and 1."""
    rows = {
        "prompt_id": ["p", "q"], "prompt_text": ["p?", "q?"], "response_text": ["x", "y"],
        "response_ids": [[1, 2, 3], [4]], "finish_reason": ["length", "stop"], "score": [1.0, 0.0],
        "correct": pa.array(correct or [None, None], pa.bool_()), "brief": [2.0, 4.0],
    }  # fmt: skip
    return EVALUATION.checked(pa.table(rows), "eval.parquet")


def samples(votes: str = "abbaccdd", prompts: str = "ppppqqqq", correct: bool = True) -> pa.Table:
    """Four answers to each prompt; right are `a` and `d`, a score of 2, the others one of 0."""
    right = [vote in "ad" for vote in votes]
    count = len(votes)
    rows = {
        "sample_id": [f"s{n}" for n in range(count)], "prompt_id": [*prompts],
        "sample_index": [n % 4 for n in range(count)], "prompt_text": ["?"] * count,
        "response_text": [*votes], "response_ids": [[1]] * count,
        "finish_reason": ["stop"] * count, "vote": [*votes], "score": [2.0 * r for r in right],
        "correct": pa.array(right if correct else [None] * count, pa.bool_()), "brief": [0.0] * count,
    }  # fmt: skip
    return EVALUATION_SAMPLES.checked(pa.table(rows), "eval_samples.parquet")


def test_metrics_by_hand() -> None:
    found = heldout_metrics(by_prompt(answers([True, False]), samples("abbbccdc")))
    wanted = {
        "scores": 0.5, "scores_se": 0.5, "brief": 3.0, "correct": 0.5, "correct_se": 0.5, "response_length": 2.0,
        "finished": 0.5,
        "sampled_scores": 0.5, "sampled_scores_se": 0.0, "sampled_correct": 0.25, "sampled_correct_se": 0.0,
        "pass@1": 0.25, "pass@2": 0.5, "pass@4": 1.0, "majority": 0.0,
    }  # fmt: skip
    assert found == pytest.approx({f"eval/{name}": number for name, number in wanted.items()})


def test_equally_frequent_answers_are_settled_by_the_first_drawn() -> None:
    """Of p `a` and `b` come twice, `a` first, which is right; of q `c` and `d`, `c` first, which is wrong."""
    assert by_prompt(answers([True, True]), samples())["majority"].tolist() == [1.0, 0.0]


def test_without_right_answers_there_is_the_mean_score_alone() -> None:
    found = by_prompt(answers(), samples(correct=False))
    assert [*found] == ["scores", "brief", "response_length", "finished", "sampled_scores"]
    assert [*by_prompt(answers(), samples().slice(0, 0))] == [*found][:-1]
    assert by_prompt(answers().slice(0, 0), samples().slice(0, 0)) == {}


def test_one_prompt_has_no_error() -> None:
    assert "eval/scores_se" not in heldout_metrics(by_prompt(answers().slice(0, 1)))


def test_samples_of_other_prompts_are_refused() -> None:
    for others in ("qqqqpppp", "pqpqpqpq"):
        with pytest.raises(PipelineError, match="of other prompts than"):
            by_prompt(answers([True, True]), samples(prompts=others))


def rule(**changes: Any) -> RuleComponent:
    settings = {
        "type": "rule", "name": "c", "weight": 1.0, "match": "exact", "column": "expected", "pattern": None,
        "tolerance": None, "hit": 1.0, "miss": 0.0, "length_penalty": 0.0, "max_length_penalty": None,
        "case_column": None,
    }  # fmt: skip
    return RuleComponent(**{**settings, **changes})


def test_a_vote_is_the_text_as_the_rule_compares_it() -> None:
    assert rule().vote(" Paris. ") == rule().vote("paris") != rule().vote("in Paris")
    assert rule(case_column="exact_case").vote("Paris!") == "Paris"
    number = rule(match="number", tolerance=0.0)
    assert number.vote("3 + 2 makes 5.0") == number.vote("5") != number.vote("2 + 3")
    assert number.vote("No idea.") == "no idea"
