"""Which responses the update's terms are of, from a round's tables, and how they are weighed in a minibatch."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from updating import update_settings

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.training.loss_inputs import LossInputs, loss_inputs_of

LOGS = pa.array([[-1.0] * 3, [-2.0], [-3.0] * 2, [-4.0] * 4], pa.list_(pa.float32()))


def inputs(
    reasons: str = "slls", correct: list[bool | None] | None = None, **changes: object
) -> tuple[LossInputs, dict[str, float]]:
    """Return what is made of four responses of 3, 1, 2 and 4 tokens; reasons: l was cut by length."""
    reason = ["length" if letter == "l" else "stop" for letter in reasons]
    nothing = pa.nulls(4, pa.list_(pa.float32()))
    reference = pa.table({"policy_logprobs": LOGS, "reference_logprobs": LOGS, "values": nothing})
    advantages = pa.table({"advantages": LOGS, "returns": nothing, "correct": correct or pa.nulls(4, pa.bool_())})
    return loss_inputs_of(pa.table({"finish_reason": reason}), reference, advantages, update_settings(**changes))


def test_cut_responses_and_right_answers_by_hand() -> None:
    found, metrics = inputs(correct=[True, True, False, False], mask_truncated=True, likelihood_coef=0.1)
    assert [c.tolist() for c in found.taught] == [[1, 1, 1], [0], [0, 0], [1, 1, 1, 1]]
    assert [c.tolist() for c in found.right] == [[1, 1, 1], [0], [0, 0], [0, 0, 0, 0]], "a cut one teaches nothing"
    assert metrics == pytest.approx({"policy/truncated_masked": 0.3, "policy/right_tokens": 0.3})
    unmasked, metrics = inputs(correct=[True, True, False, False], likelihood_coef=0.1)
    assert unmasked.taught is None and [c.tolist() for c in unmasked.right[:2]] == [[1, 1, 1], [1]]
    assert metrics == pytest.approx({"policy/right_tokens": 0.4})
    plain, metrics = inputs("llll")
    assert plain.taught is None and plain.right is None and metrics == {}


def test_in_a_minibatch_they_are_scaled_to_means() -> None:
    """Of the samples 0, 1 and 3, with 8 tokens: those taught have 7, the right answer has 3."""
    found, _ = inputs(correct=[True, True, False, False], mask_truncated=True, likelihood_coef=0.1)
    minibatch = found.scaled(np.array([3, 0, 1]), "token_mean")
    assert torch.cat(minibatch.taught).tolist() == pytest.approx([8 / 7] * 3 + [0] * 3 + [8 / 7] * 4)
    assert torch.cat(minibatch.right).tolist() == pytest.approx([8 / 3] * 3 + [0] * 7)
    for how in ("sequence_mean", "fixed_length"):
        minibatch = found.scaled(np.array([3, 0, 1]), how)
        assert minibatch.taught is found.taught, "all responses count in the divisor"
        assert torch.cat(minibatch.right).tolist() == [3] * 3 + [0] * 7
    none = found.scaled(np.array([1, 2]), "token_mean")
    assert not torch.cat([none.taught[1], none.right[1], none.taught[2], none.right[2]]).any()
    assert torch.cat(found.taught).max() == 1, "the round's own stay"


def test_a_round_of_cut_responses_alone_is_refused() -> None:
    with pytest.raises(PipelineError, match=r"update.mask_truncated: each of the round's 4 .* Raise rollout.max_new_t"):
        inputs("llll", mask_truncated=True)


def test_a_table_that_knows_no_right_answers_is_refused() -> None:
    with pytest.raises(PipelineError, match=r"column 'correct' is empty, and update.likelihood_coef needs it"):
        inputs(likelihood_coef=0.1)


def test_a_round_without_a_right_answer_has_a_term_of_0() -> None:
    found, metrics = inputs(correct=[False] * 4, likelihood_coef=0.1)
    assert not torch.cat(found.scaled(np.arange(4), "token_mean").right).any()
    assert metrics == {"policy/right_tokens": 0.0}
