"""Agreement with TRL 1.12.0's own code on random ragged batches. What differs on purpose: test_trl_differences.py."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from trl_source import (
    CONTEXT,
    SETTINGS,
    TRAINER,
    VOCABULARY,
    Batch,
    inline,
    random_batch,
    trl_microbatch,
    trl_targets,
    with_extra_token,
)

from ppo_pipeline.maths.estimators.gae import gae
from ppo_pipeline.maths.kl import kl_estimate
from ppo_pipeline.maths.masked import whiten
from ppo_pipeline.maths.ppo import policy_loss, policy_statistics, value_loss
from ppo_pipeline.maths.rewards import token_rewards
from ppo_pipeline.models.logprobs import token_logprobs

SEEDS = st.integers(0, 2**32 - 1)
DISCOUNTS = st.sampled_from([0.0, 0.5, 0.9, 0.95, 0.99, 1.0])
CLIP_RANGES = st.sampled_from([0.05, 0.2, 0.5])
TRL_TEMPERATURE = SETTINGS["temperature"] + 1e-7  # TRL adds 1e-7; see test_trl_differences.py
FP32 = 1e-6  # for what TRL computes partly in fp32 even here: shares, and the variance's factor n / (n - 1)
many = settings(deadline=None, max_examples=60)


def close(ours: np.ndarray | Tensor, trls: Tensor, atol: float = 1e-10) -> None:
    np.testing.assert_allclose(torch.as_tensor(ours).detach(), trls.detach(), rtol=0, atol=atol)


def our_targets(batch: Batch, gamma: float, lam: float, estimator: str = "k1") -> tuple[np.ndarray, np.ndarray]:
    """Return our advantages, not yet whitened, and returns, as the stage `advantage` computes them."""
    real, lengths = batch.real, batch.lengths.numpy()
    kl = kl_estimate(batch.logprobs[real].numpy(), batch.ref_logprobs[real].numpy(), estimator)
    rewards = token_rewards(kl, batch.scores.numpy(), lengths, SETTINGS["kl_coef"])
    return gae(rewards, batch.values[real].numpy(), np.zeros(len(lengths)), lengths, gamma, lam)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
@many
@given(SEEDS)
def test_kl(estimator: str, seed: int) -> None:
    batch = random_batch(seed)
    ours = kl_estimate(batch.logprobs[batch.real].numpy(), batch.ref_logprobs[batch.real].numpy(), estimator)
    close(ours, trl_targets(batch, kl_estimator=estimator).kl[batch.real])


@many
@given(SEEDS, st.sampled_from(["k1", "k3"]))
def test_with_gamma_and_lambda_1_advantages_and_returns_of_all_responses(seed: int, estimator: str) -> None:
    """Then it does not matter that TRL pays the score of a short response one token later."""
    batch = random_batch(seed)
    trls = trl_targets(batch, gamma=1.0, lam=1.0, kl_estimator=estimator)
    advantages, returns = our_targets(batch, 1.0, 1.0, estimator)
    close(advantages, (trls.returns - trls.values)[batch.real])
    close(returns, trls.returns[batch.real])
    close(whiten(advantages), trls.advantages[batch.real], FP32)


@many
@given(SEEDS, DISCOUNTS, DISCOUNTS)
def test_rewards_advantages_and_returns_of_the_longest_responses(seed: int, gamma: float, lam: float) -> None:
    """A response as wide as the batch gets its score on its last token in TRL too."""
    batch = random_batch(seed)
    trls = trl_targets(batch, gamma=gamma, lam=lam)
    longest = batch.lengths == batch.tokens.shape[1]
    chosen = longest[:, None].expand_as(batch.real)[batch.real]
    advantages, returns = our_targets(batch, gamma, lam)
    close(advantages[chosen], (trls.returns - trls.values)[longest].flatten())
    close(returns[chosen], trls.returns[longest].flatten())


@many
@given(SEEDS, DISCOUNTS, DISCOUNTS)
def test_gae_and_whitening_of_all_responses_in_trls_layout(seed: int, gamma: float, lam: float) -> None:
    """Given TRL's extra token behind each short response, our functions return TRL's numbers at every token."""
    batch = random_batch(seed)
    trls = trl_targets(batch, gamma=gamma, lam=lam)
    mask, lengths = with_extra_token(batch)
    kl = np.where(batch.real, batch.logprobs - batch.ref_logprobs, 0.0)[mask]
    rewards = token_rewards(kl, batch.scores.numpy(), lengths, SETTINGS["kl_coef"])
    close(rewards, trls.rewards[mask])
    advantages, returns = gae(rewards, batch.values[mask].numpy(), np.zeros(len(lengths)), lengths, gamma, lam)
    close(returns, trls.returns[mask])
    close(whiten(advantages[batch.real[mask]]), trls.advantages[batch.real], FP32)
    assert not trls.advantages[~batch.real].any()


@many
@given(SEEDS, st.booleans())
def test_whitening(seed: int, shift_mean: bool) -> None:
    rng = np.random.default_rng(seed)
    values, mask = rng.normal(3, 5, (6, 9)), rng.random((6, 9)) < 0.5
    mask[0, :2] = True
    trls = TRAINER.masked_whiten(torch.tensor(values), torch.tensor(mask), shift_mean)
    close(whiten(values[mask], shift_mean), trls[torch.tensor(mask)], FP32)


@many
@given(SEEDS, CLIP_RANGES)
def test_logprobs_policy_loss_its_statistics_and_gradient(seed: int, clip_range: float) -> None:
    """From the logits to the mean over one microbatch, which is a whole minibatch here."""
    batch = random_batch(seed)
    batch.logits.requires_grad_()
    targets = trl_targets(batch)
    trls = trl_microbatch(batch, targets, cliprange=clip_range)
    real = batch.real
    logits = batch.logits[:, CONTEXT - 1 : -1][real]
    eye = torch.eye(VOCABULARY, dtype=torch.float64)  # as the head's weight: the states are the logits themselves
    logprobs, entropy = token_logprobs(logits, eye, None, batch.tokens[real], TRL_TEMPERATURE)
    close(logprobs, trls.new_logprobs[real])
    close(entropy, trls.entropy[real])
    sampled = logprobs, batch.logprobs[real], targets.advantages[real], clip_range
    loss = policy_loss(*sampled).mean()
    close(loss, trls.pg_loss)
    (ours,) = torch.autograd.grad(loss, batch.logits)
    (theirs,) = torch.autograd.grad(trls.pg_loss, batch.logits)
    close(ours, theirs)
    clipped = policy_statistics(*sampled)["policy/clipfrac"] / real.sum()
    close(clipped, trls.pg_clipfrac, FP32)


@many
@given(SEEDS, st.sampled_from([0.05, 0.2, 1.0, None]))
def test_value_loss_and_its_gradient_over_trls_tokens(seed: int, clip_range: float | None) -> None:
    """TRL always clips; our None is its infinite range. TRL's tokens: with the extra one behind short responses."""
    batch = random_batch(seed)
    batch.new_values.requires_grad_()
    targets = trl_targets(batch)
    trls = trl_microbatch(batch, targets, cliprange_value=float("inf") if clip_range is None else clip_range)
    mask, _ = with_extra_token(batch)
    values = batch.new_values[:, CONTEXT - 1 : -1][mask]
    loss = value_loss(values, batch.values[mask], targets.returns[mask], clip_range).mean()
    close(loss, trls.vf_loss)
    (ours,) = torch.autograd.grad(loss, batch.new_values)
    (theirs,) = torch.autograd.grad(trls.vf_loss, batch.new_values)
    close(ours, theirs)


def test_a_changed_source_of_trl_fails_clearly() -> None:
    with pytest.raises(pytest.fail.Exception, match="0 blocks that assign 'no_such_name'"):
        inline("no_such_name", "advantages")
