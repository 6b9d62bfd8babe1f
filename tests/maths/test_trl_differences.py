"""Where the project differs from TRL 1.12.0 on purpose: each test shows one difference and its exact size.

docs/trl.md lists them with their reasons.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from test_trl_agreement import DISCOUNTS, SEEDS, close, many, our_targets
from trl_source import CONTEXT, PAD, SETTINGS, STOP, TRAINER, Batch, random_batch, trl_microbatch, trl_targets

from ppo_pipeline.maths.estimators.gae import gae
from ppo_pipeline.maths.kl import kl_estimate
from ppo_pipeline.maths.masked import whiten
from ppo_pipeline.maths.ppo import policy_loss, policy_statistics, value_loss
from ppo_pipeline.maths.rewards import token_rewards


def ragged_batch(seed: int = 0) -> Batch:
    """Return a batch in which some responses are shorter than others, and one has at least 3 tokens."""
    while True:
        batch = random_batch(seed)
        if batch.lengths.min() < batch.lengths.max() >= 3:
            return batch
        seed += 1


def row(batch: Batch, index: int, width: int) -> Batch:
    """Return one response, in a batch of that width."""
    end = slice(index, index + 1)
    cut = {name: value[end, :width] for name, value in vars(batch).items() if value.ndim == 2 and name != "new_values"}
    wide = {"logits": batch.logits[end, : width + CONTEXT], "new_values": batch.new_values[end, : width + CONTEXT]}
    return Batch(**cut | wide, scores=batch.scores[end])


@many
@given(SEEDS, DISCOUNTS, DISCOUNTS)
def test_score_of_a_short_response(seed: int, gamma: float, lam: float) -> None:
    """We pay the score with the last token. TRL pays it one token later where the batch has room for one.

    So TRL's score is discounted once more, by gamma lambda, and a value of the state behind the end takes part with
    1 - lambda. Nothing follows the end, so its value is 0 by definition here, and the score belongs to the token
    that ended the response (Ziegler et al. 2019, eq. 2).
    """
    batch = ragged_batch(seed)
    trls = trl_targets(batch, gamma=gamma, lam=lam)
    lengths = batch.lengths.numpy()
    short = lengths < batch.tokens.shape[1]
    behind = batch.values[np.arange(len(lengths)), np.minimum(lengths, batch.tokens.shape[1] - 1)].numpy()
    kl = (batch.logprobs - batch.ref_logprobs)[batch.real].numpy()
    scores = batch.scores.numpy() * np.where(short, gamma * lam, 1.0)
    rewards = token_rewards(kl, scores, lengths, SETTINGS["kl_coef"])
    last_values = np.where(short, (1 - lam) * behind, 0.0)
    _, as_trl = gae(rewards, batch.values[batch.real].numpy(), last_values, lengths, gamma, lam)
    close(as_trl, trls.returns[batch.real])
    if gamma * lam < 1:
        assert not np.allclose(our_targets(batch, gamma, lam)[1], trls.returns[batch.real], atol=1e-6)


def test_a_response_is_worth_the_same_in_any_batch() -> None:
    """TRL's returns of a short response depend on whether another one in the batch is longer; ours do not."""
    batch = ragged_batch()
    index, width = int(batch.lengths.argmin()), batch.tokens.shape[1]
    length = int(batch.lengths[index])
    alone, beside = row(batch, index, length), row(batch, index, width)
    trls = [trl_targets(case, lam=0.95).returns[0, :length] for case in (alone, beside)]
    assert (trls[0] - trls[1]).abs().max() > 1e-3
    ours = [our_targets(case, 1.0, 0.95)[1] for case in (alone, beside)]
    assert np.array_equal(*ours)
    close(ours[0], trls[0])


def test_value_loss_counts_real_tokens_only() -> None:
    """TRL also trains the value of the state behind a short response, towards the score; we never use that value."""
    batch = ragged_batch()
    targets = trl_targets(batch)
    trls = trl_microbatch(batch, targets)
    extra = ~targets.padding_mask_p1 & ~batch.real
    assert torch.equal(extra.sum(1), (batch.lengths < batch.tokens.shape[1]).long())
    close(targets.returns[extra], batch.scores[extra.any(1)])
    loss = value_loss(trls.vpred, batch.values, targets.returns, SETTINGS["cliprange_value"])
    close(loss[batch.real | extra].mean(), trls.vf_loss)
    assert abs(loss[batch.real].mean() - trls.vf_loss) > 1e-3


def test_the_stop_token_counts_where_padding_is_the_stop_token() -> None:
    """Many tokenizers pad with the stop token. TRL then takes the stop token of a short response for padding: it has
    no policy loss and no KL, only the score and a value. We count it: stopping is a choice that training must reach.
    """
    batch = ragged_batch()
    batch.tokens[batch.tokens == STOP] = PAD
    short = batch.lengths < batch.tokens.shape[1]
    stop = torch.zeros_like(batch.real)
    stop[short, batch.lengths[short] - 1] = True
    trls = trl_targets(batch, gamma=0.9, lam=0.8)
    assert torch.equal(~trls.padding_mask, batch.real & ~stop)
    assert not trls.kl[stop].any()
    assert not trls.advantages[stop].any()
    close(trls.rewards[stop], batch.scores[short])
    # The rest of the formulas agree: with a KL of 0 there, ours returns the same.
    without_kl = Batch(**vars(batch) | {"ref_logprobs": torch.where(stop, batch.logprobs, batch.ref_logprobs)})
    close(our_targets(without_kl, 0.9, 0.8)[1], trls.returns[batch.real])


def test_the_loss_is_a_mean_over_the_minibatch() -> None:
    """TRL averages within a microbatch, and Accelerate over microbatches: a token of a microbatch with few tokens
    weighs more. Ours weigh the same however the minibatch is cut up to fit into memory.
    """
    batch = ragged_batch()
    targets = trl_targets(batch)
    order = batch.lengths.argsort()
    half = len(order) // 2
    whole = trl_microbatch(batch, targets)
    parts = [trl_microbatch(batch, targets, rows) for rows in (order[:half], order[half:])]
    tokens = torch.stack([batch.real[rows].sum() for rows in (order[:half], order[half:])])
    losses = torch.stack([part.pg_loss for part in parts])
    assert abs(losses.mean() - whole.pg_loss) > 1e-3
    real = batch.real
    ours = policy_loss(whole.new_logprobs[real], batch.logprobs[real], targets.advantages[real], 0.2).mean()
    close(ours, (losses * tokens).sum() / tokens.sum())
    close(ours, whole.pg_loss)


def test_statistics_count_real_tokens_only() -> None:
    """TRL's approxkl and ratio are means over padding too, where INVALID_LOGPROB makes the difference 0, ratio 1."""
    batch = ragged_batch()
    targets = trl_targets(batch)
    trls = trl_microbatch(batch, targets)
    real, places = batch.real, batch.real.numel()
    assert TRAINER.INVALID_LOGPROB == 1.0
    assert (targets.logprobs[~real] == 1).all()
    assert (trls.new_logprobs[~real] == 1).all()
    ours = policy_statistics(trls.new_logprobs[real], batch.logprobs[real], targets.advantages[real], 0.2)
    close(ours["policy/approxkl"] / places, trls.approxkl)
    close((ours["val/ratio"] + (~real).sum()) / places, trls.ratio.mean())
    assert ours["policy/approxkl"] / real.sum() > trls.approxkl


def test_a_cut_response_may_be_bootstrapped() -> None:
    """TRL takes 0 for the value behind a cut response. So do we, unless `advantage.bootstrap` says otherwise."""
    ragged = ragged_batch()
    batch = row(ragged, int(ragged.lengths.argmax()), ragged.tokens.shape[1])
    kl = (batch.logprobs - batch.ref_logprobs)[0].numpy()
    lengths, values = batch.lengths.numpy(), batch.values[0].numpy()
    rewards = token_rewards(kl, batch.scores.numpy(), lengths, SETTINGS["kl_coef"])
    trls = trl_targets(batch, gamma=0.9).returns[0]
    close(gae(rewards, values, np.array([0.0]), lengths, 0.9, 0.95)[1], trls)
    bootstrapped = gae(rewards, values, np.array([2.0]), lengths, 0.9, 0.95)[1]
    assert bootstrapped[-1] == pytest.approx(trls[-1].item() + 0.9 * 2.0)


def test_whitening_a_single_token() -> None:
    """TRL's unbiased variance divides by zero there; ours is 0, and so is the whitened value."""
    mask = torch.tensor([[True, False]])
    assert TRAINER.masked_whiten(torch.tensor([[5.0, 1.0]]), mask)[mask].isnan().all()
    assert whiten(np.array([5.0])).tolist() == [0.0]


def test_temperature_is_taken_as_it_is() -> None:
    """TRL divides by temperature + 1e-7. Ours must be above 0 by the settings' check, and needs no guard."""
    batch = ragged_batch()
    trls = trl_microbatch(batch, trl_targets(batch))
    logits = batch.logits[:, CONTEXT - 1 : -1] / SETTINGS["temperature"]
    ours = torch.log_softmax(logits, -1).gather(-1, batch.tokens[..., None]).squeeze(-1)[batch.real]
    close(ours, trls.new_logprobs[batch.real], atol=1e-5)
    assert not torch.equal(ours, trls.new_logprobs[batch.real])


def test_k3_is_never_negative_in_fp32() -> None:
    """TRL's exp(x) - 1 - x loses its digits to rounding for small x; ours takes expm1."""
    reference = np.linspace(-3e-4, 3e-4, 1001, dtype=np.float32)
    zeros = torch.zeros(1, 1001)
    fields = {"tokens": zeros.long() + 2, "values": zeros, "scores": zeros[:, 0], "logprobs": zeros}
    wide = Batch(**vars(ragged_batch()) | fields | {"ref_logprobs": torch.from_numpy(reference[None])})
    trls = trl_targets(wide, kl_estimator="k3").kl
    ours = kl_estimate(np.zeros_like(reference), reference, "k3")
    assert trls.min() < 0 <= ours.min()
    np.testing.assert_allclose(ours, reference.astype(np.float64) ** 2 / 2, atol=1e-10)
