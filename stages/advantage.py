"""Stage `advantage`: token rewards, advantages and returns. Arithmetic only: neither torch nor transformers."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import pyarrow as pa

from ppo_pipeline.maths.gae import gae
from ppo_pipeline.maths.groups import group_normalised, leave_one_out
from ppo_pipeline.maths.kl import kl_estimate
from ppo_pipeline.maths.masked import whiten, whiten_each
from ppo_pipeline.maths.rewards import kl_penalties, token_rewards
from ppo_pipeline.maths.schedule import adapted_kl_coef
from ppo_pipeline.maths.scores import judge_missing_ends, merged_moments, scaled
from ppo_pipeline.observe.progress import result
from ppo_pipeline.observe.run_record import run_record
from ppo_pipeline.project.stage_command import StageCommand
from ppo_pipeline.settings.sections import Advantage
from ppo_pipeline.settings.stage_settings import AdvantageSettings, read_settings
from ppo_pipeline.storage.files import write_json
from ppo_pipeline.tables.advantages import ADVANTAGES
from ppo_pipeline.tables.contract import flat, lengths, ragged, same_order
from ppo_pipeline.tables.controllers import Controllers
from ppo_pipeline.tables.reference import REFERENCE
from ppo_pipeline.tables.rewards import REWARDS
from ppo_pipeline.tables.rollouts import ROLLOUTS


@click.command("advantage", cls=StageCommand)
@click.option("--settings", "settings_path", type=click.Path(path_type=Path), required=True)
@click.option("--parent-state", type=click.Path(path_type=Path), required=True)
@click.option("--rollouts", "rollouts_path", type=click.Path(path_type=Path), required=True)
@click.option("--rewards", "rewards_path", type=click.Path(path_type=Path), required=True)
@click.option("--reference", "reference_path", type=click.Path(path_type=Path), required=True)
@click.option("--advantages", "target", type=click.Path(path_type=Path), required=True)
@click.option("--controllers", "controllers_path", type=click.Path(path_type=Path), required=True)
@click.option("--metrics", type=click.Path(path_type=Path), required=True)
def main(
    settings_path: Path, parent_state: Path, rollouts_path: Path, rewards_path: Path, reference_path: Path,
    target: Path, controllers_path: Path, metrics: Path,
) -> None:  # fmt: skip
    """Turn scores and logprobs into advantages and returns; write advantages.parquet and controllers.json."""
    settings = read_settings(AdvantageSettings, settings_path)
    s = settings.advantage
    state = Controllers.read(parent_state)
    rewards = REWARDS.read(rewards_path, ["score"])
    reference = REFERENCE.read(reference_path)
    rollouts = ROLLOUTS.read(rollouts_path, ["prompt_id", "finish_reason"])
    same_order(rewards, reference, f"{rewards_path} and {reference_path}")
    same_order(rollouts, reference, f"{rollouts_path} and {reference_path}")
    with run_record("advantage", settings.round):
        counts = lengths(reference, "policy_logprobs")
        policy, base = (flat(reference, n).astype(np.float64) for n in ("policy_logprobs", "reference_logprobs"))
        cut = np.array(rollouts.column("finish_reason").to_pylist()) == "length"
        scores = rewards.column("score").to_numpy()
        shaped, state = shape_scores(scores, cut, s, state)
        sums = np.add.reduceat(policy - base, np.cumsum(counts) - counts)
        kl_coef, state = kl_coefficient(float(sums.mean()), len(counts), s, state)
        kl = kl_estimate(policy, base, s.kl_estimator)
        per_token = token_rewards(kl, shaped, counts, kl_coef, s.kl_penalty)
        if s.whiten_rewards != "none":
            per_token = whiten(per_token, shift_mean=s.whiten_rewards == "mean_and_variance")
        found = estimate(per_token, reference, counts, cut, groups_of(rollouts), s)
        used = found.advantages
        if s.whiten_advantages == "round":
            used = whiten(used)
        elif s.whiten_advantages == "response":
            used = whiten_each(used, counts)
    kind = pa.float32()
    table = pa.table(
        {
            "sample_id": reference.column("sample_id"),
            "token_rewards": ragged(per_token, counts, kind),
            "advantages": ragged(used, counts, kind),
            "returns": pa.nulls(len(counts), pa.list_(kind))
            if found.returns is None
            else ragged(found.returns, counts, kind),
        }
    )
    ADVANTAGES.write(table, target)
    state.write(controllers_path)
    penalties = np.add.reduceat(kl_penalties(kl, counts, kl_coef, s.kl_penalty), np.cumsum(counts) - counts)
    numbers = {
        "objective/kl": float(sums.mean()),
        "objective/kl_coef": kl_coef,
        "objective/non_score_reward": float(penalties.mean()),
        "objective/rlhf_reward": float((scores + penalties).mean()),
        "val/advantage_mean": float(found.advantages.mean()),
        "val/advantage_std": float(found.advantages.std()),
    }
    if found.returns is not None:
        values = flat(reference, "values").astype(np.float64)
        numbers |= {
            "val/returns": float(found.returns.mean()),
            "val/values": float(values.mean()),
            "val/explained_variance": explained_variance(values, found.returns),
        }
    write_json(metrics, numbers)
    result(
        f"advantage {settings.round}",
        f"{len(counts)} samples, KL {numbers['objective/kl']:.4f} nats a sample{flat_responses(used, counts, s)}",
        numbers,
    )


def shape_scores(
    scores: np.ndarray, cut: np.ndarray, s: Advantage, state: Controllers
) -> tuple[np.ndarray, Controllers]:
    """Return the scores as they enter the reward: missing ends judged, then scaled, then clipped."""
    shaped = judge_missing_ends(scores, cut, s.missing_end_penalty, s.missing_end_score)
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


class Estimated(NamedTuple):
    """advantages, returns: per token, sequences concatenated; returns None where no value is to be learned."""

    advantages: np.ndarray
    returns: np.ndarray | None


def estimate(
    rewards: np.ndarray, reference: pa.Table, counts: np.ndarray, cut: np.ndarray, groups: np.ndarray, s: Advantage
) -> Estimated:
    """Return the advantages of the estimator that is set."""
    if s.estimator == "gae":
        values = flat(reference, "values").astype(np.float64)
        after = reference.column("bootstrap_value").to_numpy()
        goes_on = {"none": np.zeros_like(cut), "truncated": cut, "always": np.ones_like(cut)}[s.bootstrap]
        last_values = np.where(goes_on, after, 0.0)
        return Estimated(*gae(rewards, values, last_values, counts, s.gamma, s.lam))
    if s.estimator == "reinforce++":
        # With all values 0 and lambda 1 GAE is the discounted reward to go (Hu 2025, arXiv:2501.03262).
        nothing = np.zeros_like(rewards)
        return Estimated(gae(rewards, nothing, np.zeros(len(counts)), counts, s.gamma, 1.0)[0], None)
    sums = np.add.reduceat(rewards, np.cumsum(counts) - counts)
    per_response = leave_one_out(sums, groups) if s.estimator == "rloo" else group_normalised(sums, groups)
    return Estimated(np.repeat(per_response, counts), None)


def flat_responses(advantages: np.ndarray, counts: np.ndarray, s: Advantage) -> str:
    """Return what is to be said of responses that whitening by itself left nothing to learn from."""
    if s.whiten_advantages != "response":
        return ""
    largest = np.maximum.reduceat(np.abs(advantages), np.cumsum(counts) - counts)
    flat = int((largest < 1e-6).sum())
    return f"; {flat} of one token or equal advantages, which whiten_advantages: response makes 0" if flat else ""


def groups_of(rollouts: pa.Table) -> np.ndarray:
    """Return each sample's prompt as a number."""
    return np.unique(rollouts.column("prompt_id").to_numpy(), return_inverse=True)[1]


def explained_variance(values: np.ndarray, returns: np.ndarray) -> float:
    """Return 1 - Var(R - V) / Var(R): 1 for perfect values, 0 for constant ones, below 0 for worse."""
    variance = returns.var()
    return float(1 - (returns - values).var() / variance) if variance > 0 else 0.0


if __name__ == "__main__":
    main()
