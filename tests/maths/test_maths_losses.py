"""Log probabilities and PPO's losses against plain torch and slow loops."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ppo_pipeline.maths.ppo import policy_loss, policy_statistics, value_loss
from ppo_pipeline.models.logprobs import token_logprobs


def case(bias: bool, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    torch.manual_seed(seed)
    hidden = torch.randn(13, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 6, dtype=torch.float64, requires_grad=True)
    b = torch.randn(11, dtype=torch.float64, requires_grad=True) if bias else None
    return hidden, weight, b, torch.randint(0, 11, (13,))


def plain(hidden, weight, bias, targets, temperature):
    logits = torch.nn.functional.linear(hidden, weight, bias) / temperature
    logprobs = torch.log_softmax(logits, -1)
    return logprobs[torch.arange(len(targets)), targets], -(logprobs.exp() * logprobs).sum(-1)


@pytest.mark.parametrize("chunk", [1, 5, 13, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("bias", [True, False])
def test_logprobs_entropy_and_their_gradients_equal_the_plain_computation(chunk, temperature, bias) -> None:
    inputs = case(bias)
    found = token_logprobs(*inputs, temperature, chunk)
    alone, nothing = token_logprobs(*inputs, temperature, chunk, with_entropy=False)
    assert torch.equal(alone, found[0]) and nothing.isnan().all()
    expected = plain(*inputs, temperature)
    leaves = [t for t in inputs[:3] if t is not None]
    weights = torch.linspace(-1, 2, 13, dtype=torch.float64)
    for pair in zip(found, expected, strict=True):
        torch.testing.assert_close(*pair)
    for terms in ((1.0, 0.0), (0.0, 1.0), (0.3, -0.7)):
        losses = [(weights * (terms[0] * lp + terms[1] * h)).sum() for lp, h in (found, expected)]
        ours = torch.autograd.grad(losses[0], leaves, retain_graph=True)
        theirs = torch.autograd.grad(losses[1], leaves, retain_graph=True)
        for pair in zip(ours, theirs, strict=True):
            torch.testing.assert_close(*pair)


def test_gradient_against_finite_differences() -> None:
    hidden, weight, bias, targets = case(True)
    assert torch.autograd.gradcheck(lambda h, w, b: token_logprobs(h, w, b, targets, 0.8, 4), (hidden, weight, bias))


def test_a_frozen_head_gets_no_gradient_and_bf16_gives_fp32_results() -> None:
    hidden = torch.randn(4, 6, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(11, 6, dtype=torch.bfloat16)
    logprobs, entropy = token_logprobs(hidden, weight, None, torch.tensor([0, 1, 2, 3]))
    assert logprobs.dtype == entropy.dtype == torch.float32
    logprobs.sum().backward()
    assert hidden.grad.dtype == torch.bfloat16
    assert weight.grad is None


@given(st.floats(-1, 1), st.floats(-3, 3), st.floats(0.05, 0.5))
def test_policy_loss_is_its_formula(difference: float, advantage: float, clip: float) -> None:
    rho = math.exp(difference)
    expected = max(-advantage * rho, -advantage * min(max(rho, 1 - clip), 1 + clip))
    wide = torch.float64
    old = torch.tensor([-2.0], dtype=wide)
    found = policy_loss(old + difference, old, torch.tensor([advantage], dtype=wide), clip)
    assert found.item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "flows"),
    [
        (1.5, 1.0, -1.2, False),
        (1.5, -1.0, 1.5, True),
        (0.5, 1.0, -0.5, True),
        (0.5, -1.0, 0.8, False),
        (1.1, 1.0, -1.1, True),
    ],
)
def test_clipping_stops_the_gradient_only_where_the_step_went_too_far(ratio, advantage, loss, flows) -> None:
    logprob = torch.tensor([math.log(ratio)], requires_grad=True)
    found = policy_loss(logprob, torch.zeros(1), torch.tensor([advantage]), 0.2)
    assert found.item() == pytest.approx(loss)
    found.sum().backward()
    assert bool(logprob.grad.item()) is flows


def test_value_loss_by_hand() -> None:
    values, old, returns = torch.tensor([2.0, 2.0, 0.1]), torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1.0, 3.0, 0.0])
    # clipped values: 1.2, 1.2, 0.1; the larger squared error counts.
    torch.testing.assert_close(value_loss(values, old, returns, 0.2), torch.tensor([0.5, 0.5 * 1.8**2, 0.005]))
    torch.testing.assert_close(value_loss(values, old, returns, None), torch.tensor([0.5, 0.5, 0.005]))


def test_policy_statistics_by_hand() -> None:
    ratios = torch.tensor([1.5, 1.5, 0.5, 1.0])
    advantages = torch.tensor([1.0, -1.0, -1.0, 1.0])
    found = policy_statistics(ratios.log(), torch.zeros(4), advantages, 0.2)
    assert found["val/ratio"].item() == pytest.approx(4.5)
    assert found["policy/clipfrac"].item() == 2
    assert found["policy/approxkl"].item() == pytest.approx(0.5 * (2 * math.log(1.5) ** 2 + math.log(0.5) ** 2))


@pytest.mark.parametrize("which", [0, 1])
def test_the_gradient_of_one_result_alone(which: int) -> None:
    """Only the log probabilities are used, or only the entropy: the other one's gradient does not exist."""
    inputs = case(True)
    results = token_logprobs(*inputs, 0.7, 4)[which], plain(*inputs, 0.7)[which]
    ours, theirs = (torch.autograd.grad(result.square().sum(), inputs[:3]) for result in results)
    for pair in zip(ours, theirs, strict=True):
        torch.testing.assert_close(*pair)


@pytest.mark.parametrize("trained", [0, 1, 2])
def test_the_gradient_of_one_argument_alone(trained: int) -> None:
    inputs = [t.detach() for t in case(True)]
    inputs[trained].requires_grad_()
    ours, theirs = (
        torch.autograd.grad((lp - 0.3 * h).sum(), inputs[trained])[0]
        for lp, h in (token_logprobs(*inputs, 0.7, 4), plain(*inputs, 0.7))
    )
    torch.testing.assert_close(ours, theirs)


def test_a_token_that_the_bias_forbids_is_as_if_it_were_not_in_the_vocabulary() -> None:
    hidden, weight, bias, _ = case(True)
    allowed = torch.tensor([0, 2, 3, 5, 6, 7, 8, 10])
    forbidding = torch.full((11,), -math.inf, dtype=torch.float64)
    forbidding[allowed] = bias.detach()[allowed]
    place = torch.arange(13) % len(allowed)
    found = token_logprobs(hidden, weight, forbidding, allowed[place], 0.7, 4)
    expected = plain(hidden, weight[allowed], bias[allowed], place, 0.7)
    for pair in zip(found, expected, strict=True):
        torch.testing.assert_close(*pair)
    ours, theirs = (torch.autograd.grad((lp - 0.3 * h).sum(), (hidden, weight)) for lp, h in (found, expected))
    for pair in zip(ours, theirs, strict=True):
        torch.testing.assert_close(*pair)


@pytest.mark.parametrize("count", [0, 3])
def test_equal_logits_give_the_uniform_distribution(count: int) -> None:
    logprobs, entropy = token_logprobs(torch.zeros(count, 6), torch.randn(8, 6), None, torch.arange(count), 0.5, 2)
    torch.testing.assert_close(logprobs, torch.full((count,), -math.log(8)))
    torch.testing.assert_close(entropy, torch.full((count,), math.log(8)))


def test_on_the_first_step_the_gradient_is_the_policy_gradient() -> None:
    advantages = torch.tensor([1.5, -2.0, 0.0])
    logprobs = torch.tensor([-0.1, -3.0, -1.0], requires_grad=True)
    policy_loss(logprobs, logprobs.detach().clone(), advantages, 0.2).sum().backward()
    torch.testing.assert_close(logprobs.grad, -advantages)


TOKENS = st.lists(st.tuples(*[st.floats(-3, 3)] * 3), min_size=1, max_size=12)


@given(TOKENS, st.none() | st.floats(0.05, 1.0))
def test_value_loss_is_a_slow_loop_s(tokens: list[tuple[float, float, float]], clip: float | None) -> None:
    expected = []
    for value, old, target in tokens:
        losses = [0.5 * (value - target) ** 2]
        if clip is not None:
            clipped = min(max(value, old - clip), old + clip)
            losses.append(0.5 * (clipped - target) ** 2)
        expected.append(max(losses))
    columns = [torch.tensor(column, dtype=torch.float64) for column in zip(*tokens, strict=True)]
    assert value_loss(*columns, clip).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "target", "gradient"),
    [
        (2.0, 3.0, 0.0),  # beyond the clip and towards the target: the clipped error is the larger one
        (2.0, 1.0, 1.0),  # beyond the clip and away from it
        (1.1, 3.0, -1.9),  # within the clip
        (0.0, -1.0, 0.0),  # the same below the old value, 1
        (0.0, 1.0, -1.0),
    ],
)
def test_value_clipping_stops_the_gradient_only_towards_the_target(
    value: float, target: float, gradient: float
) -> None:
    values = torch.tensor([value], requires_grad=True)
    value_loss(values, torch.tensor([1.0]), torch.tensor([target]), 0.2).sum().backward()
    assert values.grad.item() == pytest.approx(gradient)


@given(TOKENS, st.floats(0.05, 0.5))
def test_policy_statistics_are_a_slow_loop_s(tokens: list[tuple[float, float, float]], clip: float) -> None:
    approxkl = clipped = ratios = 0.0
    for logprob, old, advantage in tokens:
        rho = math.exp(logprob - old)
        approxkl += (logprob - old) ** 2 / 2
        ratios += rho
        clipped += (rho > 1 + clip and advantage > 0) or (rho < 1 - clip and advantage < 0)
    columns = [torch.tensor(column, dtype=torch.float64) for column in zip(*tokens, strict=True)]
    found = policy_statistics(*columns, clip)
    assert found["policy/approxkl"].item() == pytest.approx(approxkl)
    assert found["val/ratio"].item() == pytest.approx(ratios)
    assert found["policy/clipfrac"].item() == clipped
