"""Stage `advantage`: token rewards, GAE and returns. Arithmetic only: neither torch nor transformers."""

from pathlib import Path

import click
import numpy as np
import pyarrow as pa

from ppo_pipeline.files import write_json
from ppo_pipeline.maths.gae import gae
from ppo_pipeline.maths.kl import kl_estimate
from ppo_pipeline.maths.masked import whiten
from ppo_pipeline.maths.rewards import token_rewards
from ppo_pipeline.params import AdvantageSettings, read_settings
from ppo_pipeline.progress import result
from ppo_pipeline.run_record import run_record
from ppo_pipeline.tables.advantages import ADVANTAGES
from ppo_pipeline.tables.contract import flat, lengths, ragged, same_order
from ppo_pipeline.tables.reference import REFERENCE
from ppo_pipeline.tables.rewards import REWARDS
from ppo_pipeline.tables.rollouts import ROLLOUTS


@click.command()
@click.option("--settings", "settings_path", type=click.Path(path_type=Path), required=True)
@click.option("--rollouts", "rollouts_path", type=click.Path(path_type=Path), required=True)
@click.option("--rewards", "rewards_path", type=click.Path(path_type=Path), required=True)
@click.option("--reference", "reference_path", type=click.Path(path_type=Path), required=True)
@click.option("--advantages", "target", type=click.Path(path_type=Path), required=True)
@click.option("--metrics", type=click.Path(path_type=Path), required=True)
def main(
    settings_path: Path,
    rollouts_path: Path,
    rewards_path: Path,
    reference_path: Path,
    target: Path,
    metrics: Path,
) -> None:
    """Turn scores and logprobs into advantages and returns, and write advantages.parquet."""
    settings = read_settings(AdvantageSettings, settings_path)
    s = settings.advantage
    rewards = REWARDS.read(rewards_path, ["score"])
    reference = REFERENCE.read(reference_path)
    finish = ROLLOUTS.read(rollouts_path, ["finish_reason"])
    same_order(rewards, reference, f"{rewards_path} and {reference_path}")
    same_order(finish, reference, f"{rollouts_path} and {reference_path}")
    with run_record("advantage", settings.round):
        counts = lengths(reference, "values")
        scores = rewards.column("score").to_numpy()
        policy, base, values = (
            flat(reference, name).astype(np.float64) for name in ("policy_logprobs", "reference_logprobs", "values")
        )
        kl = kl_estimate(policy, base, s.kl_estimator)
        per_token = token_rewards(kl, scores, counts, s.kl_coef)
        cut = np.array(finish.column("finish_reason").to_pylist()) == "length"
        last_values = np.where(cut & s.bootstrap_truncated, reference.column("bootstrap_value").to_numpy(), 0.0)
        advantages, returns = gae(per_token, values, last_values, counts, s.gamma, s.lam)
        used = whiten(advantages) if s.whiten_advantages else advantages
    kind = pa.float32()
    table = pa.table(
        {
            "sample_id": reference.column("sample_id"),
            "token_rewards": ragged(per_token, counts, kind),
            "advantages": ragged(used, counts, kind),
            "returns": ragged(returns, counts, kind),
        }
    )
    ADVANTAGES.write(table, target)
    kl_k1 = np.add.reduceat(policy - base, np.cumsum(counts) - counts)
    penalty = np.add.reduceat(-s.kl_coef * kl, np.cumsum(counts) - counts)
    numbers = {
        "objective/kl": float(kl_k1.mean()),
        "objective/kl_coef": s.kl_coef,
        "objective/non_score_reward": float(penalty.mean()),
        "objective/rlhf_reward": float((scores + penalty).mean()),
        "val/advantage_mean": float(advantages.mean()),
        "val/advantage_std": float(advantages.std()),
        "val/returns": float(returns.mean()),
        "val/values": float(values.mean()),
        "val/explained_variance": explained_variance(values, returns),
    }
    write_json(metrics, numbers)
    result(
        f"advantage {settings.round}",
        f"{len(counts)} samples, KL {numbers['objective/kl']:.4f} nats a sample",
    )


def explained_variance(values: np.ndarray, returns: np.ndarray) -> float:
    """Return 1 - Var(R - V) / Var(R): 1 for perfect values, 0 for constant ones, below 0 for worse."""
    variance = returns.var()
    return float(1 - (returns - values).var() / variance) if variance > 0 else 0.0


if __name__ == "__main__":
    main()
