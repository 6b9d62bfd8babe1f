"""What the update takes from a round's tables for a rollout correction: weights with the kept mass, and metrics."""

import math
from typing import Any

import pyarrow as pa
import pytest
import torch
from updating import update_settings

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.settings.learning_sections import Update
from ppo_pipeline.training.loss_inputs import LossInputs, loss_inputs_of

# Two responses. By the training forward p, by the sampler's full softmax s, drawn from a share Z of it: q = s / Z.
POLICY = [[0.5, 0.1, 0.9], [0.3]]
SAMPLER = [[0.4, 0.2, 0.09], [0.2]]
KEPT = [[0.8, 0.8, 1.0], [0.5]]
# So r = p Z / s is 1, 0.4, 10 and 0.75. The first response's product is 4, its geometric mean 1.587.
WEIGHTS = {
    "token_truncate": [1, 0.5, 3, 0.75],
    "token_mask": [1, 0, 0, 0.75],
    "sequence_truncate": [3, 3, 3, 0.75],
    "sequence_mask": [0, 0, 0, 0.75],
    "geometric_mask": [1, 0.4, 10, 0.75],
}
CUT = {"token_truncate": 2, "token_mask": 2, "sequence_truncate": 3, "sequence_mask": 3, "geometric_mask": 0}


def settings(form: str, low: float | None = 0.5, high: float = 3.0, **changes: Any) -> Update:
    bounds = {"rollout_correction_min": low, "rollout_correction_max": high}
    return update_settings(rollout_correction=form, **bounds, **changes)


def logs(columns: list[list[float]]) -> pa.Array:
    return pa.array([[math.log(x) for x in row] for row in columns], pa.list_(pa.float32()))


def inputs(s: Update) -> tuple[LossInputs, dict[str, float]]:
    rollouts = pa.table({"rollout_logprobs": logs(SAMPLER), "kept_mass": pa.array(KEPT, pa.list_(pa.float32()))})
    nothing = pa.array([None, None], pa.list_(pa.float32()))
    reference = pa.table({"policy_logprobs": logs(POLICY), "reference_logprobs": logs(POLICY), "values": nothing})
    advantages = pa.table({"advantages": logs(POLICY), "returns": nothing})
    return loss_inputs_of(rollouts, reference, advantages, s)


@pytest.mark.parametrize("form", WEIGHTS)
def test_weights_and_metrics_by_hand(form: str) -> None:
    found, metrics = inputs(settings(form))
    assert found.weights is not None and [len(w) for w in found.weights] == [3, 1]
    assert {w.dtype for w in found.weights} == {torch.float32}
    assert torch.cat(found.weights).tolist() == pytest.approx(WEIGHTS[form], rel=1e-5)
    expected = {"policy/correction_mean": sum(WEIGHTS[form]) / 4, "policy/correction_cut": CUT[form] / 4}
    assert metrics == pytest.approx(expected, rel=1e-5)


def test_without_a_correction_there_is_nothing() -> None:
    found, metrics = inputs(update_settings())
    assert found.weights is None and metrics == {}


def test_a_correction_that_leaves_no_token_is_refused() -> None:
    with pytest.raises(PipelineError, match=r"rollout_correction: sequence_mask gives .* 4 tokens weight 0.*Widen"):
        inputs(settings("sequence_mask", 0.9))
    inputs(settings("sequence_mask", 0.7))
