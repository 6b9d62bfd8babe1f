"""What a round's scores and logprobs are worth, token by token: rewards, advantages, returns. Without torch."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..maths.estimators.registry import estimators
from ..maths.explained_variance import explained_variance
from ..maths.groups import sums_by_sequence
from ..maths.kl import kl_estimate
from ..maths.masked import whiten, whiten_each
from ..maths.rewards import kl_penalties, token_rewards
from ..maths.schedule import adapted_kl_coef
from ..maths.scores import judge_missing_eos, merged_moments, overlong_penalties, scaled
from ..settings.learning_sections import Advantage
from ..tables.controllers import Controllers

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Responses:
    """The responses of a round, N of them with `tokens` in all; per token, sequences are concatenated.

    lengths: (N,). groups: (N,) the prompt of each as a number. cut: (N,) whether the length limit ended it. scores:
    (N,). remembered: (N,) mean reward of each prompt in earlier rounds, NaN for a new one. policy, reference: (tokens,)
    logprobs. values: (tokens,) and bootstrap: (N,) value behind the last token;
    None without a critic.
    """

    lengths: NDArray[np.integer]
    groups: NDArray[np.integer]
    cut: NDArray[np.bool_]
    scores: Floats
    remembered: Floats
    policy: Floats
    reference: Floats
    values: Floats | None
    bootstrap: Floats | None


@dataclass(frozen=True)
class Advantages:
    """What the update learns from, per token: rewards, advantages, and returns where values are learned.

    summed: (N,) each response's rewards, before they are whitened, for the memory of prompts.
    state: of the controllers, for the next round. numbers: the stage's metrics. flat: responses that whitening by
    itself left nothing to learn from.
    """

    rewards: Floats
    advantages: Floats
    returns: Floats | None
    summed: Floats
    state: Controllers
    numbers: dict[str, float]
    flat: int


def advantages_of(
    r: Responses, s: Advantage, state: Controllers, critic_alone: bool = False, limit: int | None = None
) -> Advantages:
    """Return a round's advantages; `state` is what the parent's controllers left.

    critic_alone: the policy learns nothing of this round, and an adaptive KL coefficient rests until it does. limit:
    tokens at which a response was cut; needed for overlong_buffer alone.
    """
    overlong = overlong_of(r.lengths, s, limit)
    shaped, state = shaped_scores(r.scores, r.cut, overlong, s, state)
    sums = sums_by_sequence(r.policy - r.reference, r.lengths)
    kl_coef, adapted = kl_coefficient(float(sums.mean()), len(r.lengths), s, state)
    state = state if critic_alone else adapted
    kl = kl_estimate(r.policy, r.reference, s.kl_estimator)
    rewards = token_rewards(kl, shaped, r.lengths, kl_coef, s.kl_penalty)
    summed = sums_by_sequence(rewards, r.lengths)
    if s.whiten_rewards != "none":
        rewards = whiten(rewards, shift_mean=s.whiten_rewards == "mean_and_variance")
    found = estimators()[s.estimator](
        rewards=rewards, lengths=r.lengths, groups=r.groups, values=r.values, last_values=last_values(r, s.bootstrap),
        gamma=s.gamma, lam=s.lam, lam_returns=s.lambda_returns, lam_alpha=s.lambda_alpha, remembered=r.remembered,
    )  # fmt: skip
    used = whitened(found.advantages, r.lengths, s.whiten_advantages)
    penalties = sums_by_sequence(kl_penalties(kl, r.lengths, kl_coef, s.kl_penalty), r.lengths)
    numbers = {
        "objective/kl": float(sums.mean()),
        "objective/kl_coef": kl_coef,
        "objective/non_score_reward": float(penalties.mean()),
        "objective/rlhf_reward": float((r.scores + penalties).mean()),
        "val/advantage_mean": float(found.advantages.mean()),
        "val/advantage_std": float(found.advantages.std()),
    }
    if overlong is not None:
        numbers["objective/overlong_penalty"] = float(overlong.mean())
    if found.returns is not None and r.values is not None:
        numbers |= {
            "val/returns": float(found.returns.mean()),
            "val/values": float(r.values.mean()),
            "val/explained_variance": explained_variance(r.values, found.returns),
        }
    if s.memory_discount is not None:
        numbers["val/remembered"] = float(np.isfinite(r.remembered).mean())
    flat = flat_responses(used, r.lengths) if s.whiten_advantages == "response" else 0
    return Advantages(rewards, used, found.returns, summed, state, numbers, flat)


def overlong_of(lengths: NDArray[np.integer], s: Advantage, limit: int | None) -> Floats | None:
    """Return the soft overlong punishment of each response (N,), None where there is none."""
    if s.overlong_buffer is None:
        return None
    assert limit is not None and s.overlong_penalty is not None, "the settings see to it"
    return overlong_penalties(lengths, limit, s.overlong_buffer, s.overlong_penalty)


def shaped_scores(
    scores: Floats, cut: NDArray[np.bool_], overlong: Floats | None, s: Advantage, state: Controllers
) -> tuple[Floats, Controllers]:
    """Return the scores as they enter the reward: missing EOS judged, length punished, then scaled, then clipped."""
    shaped = judge_missing_eos(scores, cut, s.missing_eos_penalty, s.missing_eos_score)
    if overlong is not None:
        shaped = shaped + overlong
    if s.score_scaling != "none":
        moments = merged_moments(state.score_count, state.score_mean, state.score_variance, shaped)
        state = replace(state, score_count=moments[0], score_mean=moments[1], score_variance=moments[2])
        shaped = scaled(shaped, *moments, shift=s.score_scaling == "norm")
    if s.score_clip is not None:
        shaped = np.clip(shaped, -s.score_clip, s.score_clip)
    return shaped, state


def kl_coefficient(kl: float, samples: int, s: Advantage, state: Controllers) -> tuple[float, Controllers]:
    """Return this round's coefficient, and the state with the next round's."""
    if s.kl_target is None:
        return s.kl_coef, replace(state, kl_coef=None)
    coef = s.kl_coef if state.kl_coef is None else state.kl_coef
    return coef, replace(state, kl_coef=adapted_kl_coef(coef, kl, s.kl_target, s.kl_horizon, samples))


def last_values(r: Responses, bootstrap: str) -> Floats | None:
    """Return the value after each response's last token (N,): 0, or the critic's; None without a critic."""
    if r.bootstrap is None:
        return None
    goes_on = {"none": np.zeros_like(r.cut), "truncated": r.cut, "always": np.ones_like(r.cut)}[bootstrap]
    return np.where(goes_on, r.bootstrap, 0.0)


def whitened(advantages: Floats, lengths: NDArray[np.integer], over: str) -> Floats:
    """Return the advantages whitened over the round or each response; `minibatch` is the update's to do."""
    if over == "round":
        return whiten(advantages)
    return whiten_each(advantages, lengths) if over == "response" else advantages


def flat_responses(advantages: Floats, lengths: NDArray[np.integer]) -> int:
    """Return how many responses have nothing but zeros."""
    largest = np.maximum.reduceat(np.abs(advantages), np.cumsum(lengths) - lengths)
    return int((largest < 1e-6).sum())
