"""The options of the PPO update against a slow loop over tokens, properties and numbers worked by hand."""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from updating import (
    CUT,
    RIGHT,
    TEMPERATURE,
    make_data,
    make_policy,
    make_targets,
    parameters_of,
    run,
    update_settings,
    weights_of,
    with_chosen,
)

from ppo_pipeline.maths.schedule import learning_rate_factor
from ppo_pipeline.models.checkpoint import TrainerState
from ppo_pipeline.models.policy import Policy
from ppo_pipeline.settings.learning_sections import Update
from ppo_pipeline.training.batches import generator, shuffled_minibatches
from ppo_pipeline.training.data import Sampled
from ppo_pipeline.training.loss_inputs import LossInputs
from ppo_pipeline.training.optimizer import make_optimizer, trained_parameters
from ppo_pipeline.training.ppo import PPO

ONE_STEP = {"epochs": 1, "minibatches": 1, "max_grad_norm": None}
MAX_NEW_TOKENS = 16
CASES = {
    "plain": {},
    "clip-higher": {"clip_range_high": 0.5},
    "dual clip": {"dual_clip": 1.3},
    "sequence mean": {"loss_normalization": "sequence_mean"},
    "fixed length": {"loss_normalization": "fixed_length"},
    "k2 in the loss": {"kl_loss_coef": 0.7, "kl_loss_estimator": "k2"},
    "k3 in the loss": {"kl_loss_coef": 0.7, "kl_loss_estimator": "k3"},
    "masked": {"rollout_correction": "token_mask", "rollout_correction_max": 2.0},
    "masked, sequence mean, in groups": {
        "rollout_correction": "token_mask", "rollout_correction_max": 2.0, "loss_normalization": "sequence_mean",
        "gradient_groups": 4,
    },
    "gspo": {"policy_loss": "gspo", "clip_range": 0.02, "loss_normalization": "sequence_mean"},
    "gspo in groups": {"policy_loss": "gspo", "clip_range": 0.05, "clip_range_high": 0.02, "gradient_groups": 4},
    "cispo": {"policy_loss": "cispo", "clip_range_high": 0.5},
    "cispo, masked": {
        "policy_loss": "cispo", "rollout_correction": "token_mask", "rollout_correction_max": 2.0, "gradient_groups": 2,
    },
    **{
        f"cut ones masked, right ones likely, {how}": {
            "mask_truncated": True, "likelihood_coef": 0.3, "loss_normalization": how, "kl_loss_coef": 0.7,
        }
        for how in ("token_mean", "sequence_mean", "fixed_length")
    },
    "gspo, masked, right ones likely, in groups": {
        "policy_loss": "gspo", "clip_range": 0.05, "clip_range_high": 0.02, "mask_truncated": True,
        "likelihood_coef": 0.3, "gradient_groups": 4,
    },
    "all": {
        "clip_range_high": 0.5, "dual_clip": 1.3, "loss_normalization": "sequence_mean", "kl_loss_coef": 0.7,
        "rollout_correction": "token_truncate", "rollout_correction_max": 2.0, "value_clip_range": None,
    },
}  # fmt: skip


def far_targets(policy: Policy, data: Sampled, settings: Update) -> LossInputs:
    """Return targets whose old policy is far enough from this one that every clip matters."""
    targets = make_targets(policy, data)
    for i, logprobs in enumerate(targets.old_logprobs):
        logprobs += 0.7 * torch.sin(2.0 * torch.arange(len(logprobs)) + i)
    reference = [lp + 0.5 * torch.cos(torch.arange(len(lp)) + i) for i, lp in enumerate(targets.old_logprobs)]
    targets = replace(
        targets,
        reference_logprobs=reference if settings.kl_loss_coef else None,
        weights=weights_of(data) if settings.rollout_correction else None,
    )
    return with_chosen(targets, data) if settings.mask_truncated else targets


def slow_loss(policy: Policy, data: Sampled, targets: LossInputs, s: Update) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the minibatch's loss, token by token from plain forwards, and how often each clip mattered."""
    high = s.clip_range if s.clip_range_high is None else s.clip_range_high
    counts = {"low": 0, "high": 0, "dual": 0}
    responses = []
    for i, (prompt, response) in enumerate(zip(data.prompts, data.responses, strict=True)):
        out = policy.model(torch.cat([prompt, response])[None].long(), output_hidden_states=True)
        terms, rests, likely = [], [], []
        rows = [torch.log_softmax(out.logits[0, len(prompt) + t - 1] / TEMPERATURE, -1) for t in range(len(response))]
        own = [row[x] - old for row, x, old in zip(rows, response.tolist(), targets.old_logprobs[i], strict=True)]
        of_response = (sum(own) / len(own)).exp().item()
        for t, token in enumerate(response.tolist()):
            place, every = len(prompt) + t - 1, rows[t]
            lp, a = every[token], targets.advantages[i][t]
            rho = (lp - targets.old_logprobs[i][t]).exp()
            if s.policy_loss == "gspo":
                rho = of_response * lp.exp() / lp.exp().item()
            clipped = min(max(rho, torch.tensor(1 - s.clip_range)), torch.tensor(1 + high))
            gain = min(a * rho, a * clipped)
            either = s.policy_loss == "cispo"
            if either:
                gain = clipped.item() * a * lp
            counts["high"] += bool((a > 0 or either) and rho > 1 + high)
            counts["low"] += bool((a < 0 or either) and rho < 1 - s.clip_range)
            if s.dual_clip is not None and a < 0:
                counts["dual"] += bool(gain < s.dual_clip * a)
                gain = max(gain, s.dual_clip * a)
            if targets.weights is not None:
                gain = gain * targets.weights[i][t]
            v = policy.value_head(out.hidden_states[-1][0, place])
            old, ret = targets.old_values[i][t], targets.returns[i][t]
            errors = [(v - ret) ** 2]
            if s.value_clip_range is not None:
                errors.append((old + (v - old).clamp(-s.value_clip_range, s.value_clip_range) - ret) ** 2)
            entropy = -(every.exp() * every).sum()
            rests.append(s.value_coef * 0.5 * max(errors))
            likely.append(-s.likelihood_coef * lp)
            loss = -gain - s.entropy_coef * entropy
            if targets.reference_logprobs is not None:
                r = targets.reference_logprobs[i][t] - lp
                loss = loss + s.kl_loss_coef * (r**2 / 2 if s.kl_loss_estimator == "k2" else r.exp() - 1 - r)
            terms.append(loss)
        responses.append((terms, rests, likely))
    everyone = range(len(responses))
    policy_s = [i for i in everyone if not s.mask_truncated or i not in CUT]
    # Responses left out count in the divisor of the policy's terms, but by token.
    loss = mean_of(
        [r[0] for r in responses], policy_s, policy_s if s.loss_normalization == "token_mean" else everyone, s
    )
    loss = loss + mean_of([r[1] for r in responses], everyone, everyone, s)
    if s.likelihood_coef:
        loss = loss + mean_of([r[2] for r in responses], RIGHT, RIGHT, s)
    return loss, counts


def mean_of(terms: list[list[torch.Tensor]], of: Iterable[int], over: Iterable[int], s: Update) -> torch.Tensor:
    """Return the terms of the responses `of`, by the normalization over the responses `over`."""
    over = [*over]
    if s.loss_normalization == "sequence_mean":
        return sum(sum(terms[i]) / len(terms[i]) for i in of) / len(over)
    total = sum(sum(terms[i]) for i in of)
    if s.loss_normalization == "fixed_length":
        return total / (len(over) * MAX_NEW_TOKENS)
    return total / sum(len(terms[i]) for i in over)


def gradients(policy: Policy) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in trained_parameters(policy).items() if p.grad is not None}


def one_step(settings: Update, policy: Policy, data: Sampled, targets: LossInputs) -> dict[str, torch.Tensor]:
    """Return the gradients of an update of one step."""
    return gradients(stepped(settings, policy, data, targets).policy)


def stepped(settings: Update, policy: Policy, data: Sampled, targets: LossInputs) -> PPO:
    """Return an update of one step that is done."""
    ppo = PPO(policy, make_optimizer(policy, settings, TrainerState()), settings, TEMPERATURE, 0, MAX_NEW_TOKENS)
    ppo.run(data, targets, ("k",))
    return ppo


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_those_of_a_slow_loop(case: str) -> None:
    settings, data = update_settings(**ONE_STEP, **CASES[case]), make_data()
    targets = far_targets(make_policy(), data, settings)
    ppo, slow = stepped(settings, make_policy(), data, targets), make_policy()
    found = gradients(ppo.policy)
    loss, counts = slow_loss(slow, data, targets, settings)
    assert ppo.metrics()["policy/clipfrac"] == pytest.approx((counts["low"] + counts["high"]) / ppo.tokens)
    assert counts["low"] > 2 and counts["high"] > 2 and (counts["dual"] > 2) == (settings.dual_clip is not None)
    loss.backward()
    assert set(found) == set(gradients(slow))
    for name, expected in gradients(slow).items():
        assert expected.abs().max() > 1e-4
        torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    "case", ["sequence mean", "fixed length", "all", "gspo", "cut ones masked, right ones likely, token_mean"]
)
@pytest.mark.parametrize("tokens", [1, 40])
def test_microbatches_do_not_change_the_gradient(case: str, tokens: int) -> None:
    data, found = make_data(), []
    for size in (tokens, 10_000):
        settings = update_settings(**ONE_STEP, **CASES[case], microbatch_tokens=size)
        found.append(one_step(settings, make_policy(), data, far_targets(make_policy(), data, settings)))
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], atol=1e-6, rtol=1e-4)


def steps_until(limit: float | None) -> PPO:
    policy, data = make_policy(), make_data(12)
    settings = update_settings(epochs=2, minibatches=3, target_kl=limit, entropy_coef=0.0)
    return run(policy, settings, data, make_targets(policy, data))[0]


def test_target_kl_ends_the_update_before_the_step_that_is_beyond() -> None:
    """The approxkl of each minibatch of an unlimited run tells where a limited one has to end."""
    seen: list[dict[str, float]] = []

    class Watched(PPO):
        def _clip_and_step(self, *minibatch: Any) -> None:
            seen.append(parameters_of(self.policy))
            super()._clip_and_step(*minibatch)

    policy, data = make_policy(), make_data(12)
    settings = update_settings(epochs=2, minibatches=3, entropy_coef=0.0)
    targets = make_targets(policy, data)
    totals: list[float] = []
    whole = Watched(policy, make_optimizer(policy, settings, TrainerState()), settings, TEMPERATURE, 0)
    counted: list[tuple[int, int]] = []
    whole.run(data, targets, ("seed", "r001"), lambda n, t: (counted.append((n, t)), totals.append(dict(whole.sums))))
    sums = np.array([0.0, *[t["policy/approxkl"] for t in totals]])
    tokens = np.array([t for _, t in counted])
    kls = np.diff(sums) / tokens
    assert kls[0] == pytest.approx(0, abs=1e-9) and kls[1:].min() > 1e-4
    last = int(np.argmax(kls > kls[1] * 1.01))  # the first minibatch that is beyond the second
    assert last >= 2
    limited_policy = make_policy()
    limited = Watched(
        limited_policy,
        make_optimizer(limited_policy, settings, TrainerState()),
        settings.model_copy(update={"target_kl": float(kls[1]) * 1.01}),
        TEMPERATURE,
        0,
    )
    limited.run(data, targets, ("seed", "r001"))
    assert limited.stopped and limited.steps == last == limited.metrics()["policy/steps"]
    assert limited.metrics()["policy/stopped_early"] == 1.0
    for name, parameter in parameters_of(limited_policy).items():
        assert torch.equal(parameter, seen[last][name]), "the parameters are those before the abandoned step"
    assert limited.tokens == tokens[:last].sum()
    assert limited.sums == totals[last - 1]
    assert len(limited.grad_norms) == last


def test_target_kl_that_is_never_reached_changes_nothing() -> None:
    free, limited = steps_until(None), steps_until(1e9)
    assert free.metrics() == limited.metrics() and limited.metrics()["policy/stopped_early"] == 0.0
    assert free.steps == 6


def test_an_update_that_ends_before_its_first_step_has_metrics() -> None:
    """With dropout, or a policy that is not the one that sampled, the first minibatch may be beyond already."""
    policy, data = make_policy(), make_data()
    before = parameters_of(policy)
    settings = update_settings(target_kl=1e-3)
    ppo, _ = run(policy, settings, data, far_targets(policy, data, settings))
    assert ppo.stopped and ppo.steps == 0
    assert ppo.metrics()["policy/steps"] == 0 and all(math.isfinite(v) for v in ppo.metrics().values())
    assert "policy/approxkl" not in ppo.metrics()
    assert all(torch.equal(p, before[n]) for n, p in parameters_of(policy).items())


@pytest.mark.parametrize(("depth", "factor"), [(1, 1 / 3), (2, 2 / 3), (3, 1.0), (7, 1.0)])
def test_the_factor_scales_both_learning_rates(depth: int, factor: float) -> None:
    """An update with the factor equals one whose learning rates are multiplied beforehand."""
    assert learning_rate_factor(depth, "constant", 2, None) == pytest.approx(factor)
    data, found = make_data(), []
    for scaled in (True, False):
        policy = make_policy()
        s = update_settings() if scaled else update_settings(lr=0.01 * factor, value_lr=0.02 * factor)
        optimizer = make_optimizer(policy, s, TrainerState(), factor if scaled else 1.0)
        PPO(policy, optimizer, s, TEMPERATURE, 0).run(data, make_targets(policy, data), ("k",))
        found.append(parameters_of(policy))
    for name, parameter in found[0].items():
        torch.testing.assert_close(parameter, found[1][name], atol=1e-6, rtol=1e-5)


def test_advantages_are_whitened_over_each_minibatch_s_tokens() -> None:
    """The update equals one whose advantages were whitened by hand, minibatch by minibatch; the table's stay."""
    settings = update_settings(epochs=1, minibatches=3, microbatch_tokens=20)
    data = make_data()
    one, other = make_policy(), make_policy()
    targets = make_targets(one, data)
    given = [a.clone() for a in targets.advantages]
    ppo = PPO(one, make_optimizer(one, settings, TrainerState()), settings, TEMPERATURE, 0, whiten_minibatches=True)
    ppo.run(data, targets, ("seed", "r001"))
    assert all(torch.equal(a, b) for a, b in zip(targets.advantages, given, strict=True))
    rng = generator("seed", "r001", "epoch", 0)
    rng.integers(2**63)  # the dropout's seed
    by_hand = list(given)
    for indices in shuffled_minibatches(len(given), 3, rng):
        tokens = [x for i in indices for x in given[i].tolist()]
        mean = sum(tokens) / len(tokens)
        deviation = math.sqrt(sum((x - mean) ** 2 for x in tokens) / (len(tokens) - 1) + 1e-8)
        for i in indices:
            by_hand[i] = (given[i] - mean) / deviation
    run(other, settings, data, replace(targets, advantages=by_hand))
    found, wanted = parameters_of(one), parameters_of(other)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=1e-6)
    plain = make_policy()
    run(plain, settings, data, targets)
    assert any((parameters_of(plain)[name] - wanted[name]).abs().max() > 1e-3 for name in wanted)


def test_one_token_alone_in_its_minibatch_has_advantage_0() -> None:
    targets = LossInputs([torch.zeros(1)] * 2, None, [torch.tensor([3.0]), torch.tensor([5.0])], None)
    assert targets.whitened(np.array([1])).advantages == [torch.tensor([3.0]), torch.tensor([0.0])]
