"""The training forward and the PPO update against plain transformers and a slow loop."""

import numpy as np
import pytest
import torch
from conftest import tiny_model
from torch.nn import functional
from updating import TEMPERATURE, make_data, make_policy, make_targets, old_numbers, parameters_of, run, update_settings

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models.checkpoint import TrainerState
from ppo_pipeline.training.loss_inputs import LossInputs
from ppo_pipeline.training.optimizer import make_optimizer, moments_of, trained_parameters
from ppo_pipeline.training.ppo import PPO


def test_scores_equal_a_plain_forward_of_each_sequence(architecture: str) -> None:
    """Logprobs, values, entropy and bootstrap of a padded batch against one unpadded forward per sequence."""
    policy, data = make_policy(architecture), make_data()
    with torch.no_grad():
        found = policy.score(data.sequences(np.arange(7), 0, torch.device("cpu")), TEMPERATURE)
        reference = policy.reference_logprobs(data.sequences(np.arange(7), 0, torch.device("cpu")), TEMPERATURE)
    base, start = tiny_model(architecture), 0
    for i, (prompt, response) in enumerate(zip(data.prompts, data.responses, strict=True)):
        ids = torch.cat([prompt, response])[None].long()
        rows = slice(start, start + len(response))
        start += len(response)
        for model, logprobs in ((policy.model, found.logprobs), (base, reference)):
            with torch.no_grad():
                out = model(ids, output_hidden_states=True)
            every = torch.log_softmax(out.logits[0] / TEMPERATURE, -1)[len(prompt) - 1 : -1]
            expected = every[torch.arange(len(response)), response.long()]
            torch.testing.assert_close(logprobs[rows], expected, atol=1e-4, rtol=1e-4)
            if model is policy.model:
                entropy = torch.distributions.Categorical(logits=every).entropy()
                torch.testing.assert_close(found.entropy[rows], entropy, atol=1e-4, rtol=1e-4)
                head = policy.value_head.linear
                values = (out.hidden_states[-1][0] @ head.weight[0] + head.bias).detach()
                torch.testing.assert_close(
                    found.values[rows].detach(), values[len(prompt) - 1 : -1], atol=1e-4, rtol=1e-4
                )
                torch.testing.assert_close(found.bootstrap[i].detach(), values[-1], atol=1e-4, rtol=1e-4)


def test_a_sequence_scores_the_same_bits_in_every_batch() -> None:
    policy, data = make_policy(), make_data(20)
    device = torch.device("cpu")
    with torch.no_grad():
        alone = [policy.score(data.sequences(np.array([i]), 0, device), 1.0).logprobs for i in range(20)]
        together = policy.score(data.sequences(np.arange(20), 0, device), 1.0).logprobs
    # fp32 products over different numbers of rows may differ in the last bits; bf16 ones did not (docs/log.md).
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-5, rtol=1e-5)


def test_one_step_equals_a_slow_loop_over_tokens() -> None:
    """One epoch, one minibatch: the parameters after it, against losses written token by token and plain AdamW."""
    settings = update_settings(epochs=1, minibatches=1, weight_decay=0.01)
    data = make_data()
    policy = make_policy()
    targets = make_targets(policy, data)
    with torch.no_grad():  # the old policy differs from this one, so that clipping matters
        for i, lp in enumerate(targets.old_logprobs):
            lp += 0.3 * torch.sin(torch.arange(len(lp)) + i)
    run(policy, settings, data, targets)

    slow = make_policy()
    named = trained_parameters(slow)
    groups = [
        {"params": [p for n, p in named.items() if "lora" in n], "lr": 0.01},
        {"params": [p for n, p in named.items() if "value" in n], "lr": 0.02},
    ]
    optimizer = torch.optim.AdamW(groups, eps=1e-5, weight_decay=0.01)
    terms = []
    for i, (prompt, response) in enumerate(zip(data.prompts, data.responses, strict=True)):
        ids = torch.cat([prompt, response])[None].long()
        out = slow.model(ids, output_hidden_states=True)
        for t, token in enumerate(response.tolist()):
            place = len(prompt) + t - 1
            distribution = torch.distributions.Categorical(logits=out.logits[0, place] / TEMPERATURE)
            lp = functional.log_softmax(out.logits[0, place] / TEMPERATURE, -1)[token]
            rho = (lp - targets.old_logprobs[i][t]).exp()
            a = targets.advantages[i][t]
            policy_term = -min(a * rho, a * rho.clamp(0.8, 1.2))
            v = slow.value_head(out.hidden_states[-1][0, place])
            old, ret = targets.old_values[i][t], targets.returns[i][t]
            v_clip = old + (v - old).clamp(-0.2, 0.2)
            value_term = 0.5 * max((v - ret) ** 2, (v_clip - ret) ** 2)
            terms.append(policy_term + 0.1 * value_term - 0.01 * distribution.entropy())
    (sum(terms) / len(terms)).backward()
    torch.nn.utils.clip_grad_norm_(list(named.values()), 1.0)
    optimizer.step()
    before = parameters_of(make_policy())
    for name, parameter in parameters_of(policy).items():
        assert not torch.equal(parameter, before[name])
        torch.testing.assert_close(parameter, named[name].detach(), atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("tokens", [1, 40, 10_000])
def test_microbatch_size_does_not_change_the_gradient(tokens: int) -> None:
    data = make_data()
    grads = []
    for size in (64, tokens):
        policy = make_policy()
        targets = make_targets(policy, data)
        run(policy, update_settings(epochs=1, minibatches=1, microbatch_tokens=size, max_grad_norm=None), data, targets)
        grads.append({name: p.grad.clone() for name, p in trained_parameters(policy).items()})
    for name in grads[0]:
        torch.testing.assert_close(grads[0][name], grads[1][name], atol=1e-6, rtol=1e-4)


def test_the_first_ratio_is_one_and_the_later_ones_are_not() -> None:
    policy, data = make_policy(), make_data()
    ppo, _ = run(policy, update_settings(), data, make_targets(policy, data))
    metrics = ppo.metrics()
    assert metrics["val/ratio_first"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["val/ratio_first_max_deviation"] < 1e-5
    assert abs(metrics["val/ratio"] - 1) > 1e-4
    assert metrics["policy/approxkl"] > 0
    assert ppo.steps == 4


def test_resuming_loses_nothing() -> None:
    """Two updates with the state saved between them equal two updates with one optimizer."""
    data, settings = make_data(), update_settings()
    targets = make_targets(make_policy(), data)
    kept = make_policy()
    optimizer = make_optimizer(kept, settings, TrainerState())
    for _ in range(2):
        PPO(kept, optimizer, settings, TEMPERATURE, 0).run(data, targets, ("k",))

    resumed = make_policy()
    first = make_optimizer(resumed, settings, TrainerState())
    ppo = PPO(resumed, first, settings, TEMPERATURE, 0)
    ppo.run(data, targets, ("k",))
    state = TrainerState(optimizer_step=ppo.steps, value_step=ppo.steps, moments=moments_of(resumed, first))
    PPO(resumed, make_optimizer(resumed, settings, state), settings, TEMPERATURE, 0).run(data, targets, ("k",))
    for name, parameter in parameters_of(resumed).items():
        assert torch.equal(parameter, parameters_of(kept)[name]), name
    fresh = make_policy()
    for _ in range(2):
        PPO(fresh, make_optimizer(fresh, settings, TrainerState()), settings, TEMPERATURE, 0).run(data, targets, ("k",))
    assert any(not torch.equal(p, parameters_of(kept)[n]) for n, p in parameters_of(fresh).items())


def test_learns_what_is_rewarded() -> None:
    """Positive advantage on one sample, negative on another: their log probabilities move apart."""
    policy, data = make_policy(), make_data(2)
    targets = make_targets(policy, data)
    signed = LossInputs(
        targets.old_logprobs, targets.old_values,
        [torch.full_like(a, s) for a, s in zip(targets.advantages, (1.0, -1.0), strict=True)], targets.returns,
    )  # fmt: skip
    run(policy, update_settings(minibatches=1, epochs=3, value_coef=0.0, entropy_coef=0.0), data, signed)
    after, _ = old_numbers(policy, data)
    assert after[0].sum() > targets.old_logprobs[0].sum() + 0.1
    assert after[1].sum() < targets.old_logprobs[1].sum() - 0.1


def test_fewer_samples_than_minibatches_is_an_error() -> None:
    policy, data = make_policy(), make_data(3)
    with pytest.raises(PipelineError, match="minibatches: 4 for 3 samples"):
        run(policy, update_settings(minibatches=4), data, make_targets(policy, data))


def test_a_loss_that_is_not_finite_names_step_and_sample() -> None:
    policy, data = make_policy(), make_data()
    targets = make_targets(policy, data)
    targets.advantages[3][0] = float("nan")
    with pytest.raises(PipelineError, match=r"optimizer step 1 is nan \(samples .*s3"):
        run(policy, update_settings(minibatches=1), data, targets)


def test_dropout_of_the_base_stays_off() -> None:
    """GPT-2 has dropout in its configuration; the first ratio would not be 1 with it."""
    policy, data = make_policy("gpt2"), make_data()
    ppo, _ = run(policy, update_settings(), data, make_targets(policy, data))
    assert ppo.metrics()["val/ratio_first_max_deviation"] < 1e-5
