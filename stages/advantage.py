"""Stage `advantage`: token rewards, advantages and returns. Arithmetic only: neither torch nor transformers."""

import numpy as np
import pyarrow as pa

from ppo_pipeline.project.stage_run import stage_run
from ppo_pipeline.settings.stage_settings import AdvantageSettings
from ppo_pipeline.tables.advantages import ADVANTAGES
from ppo_pipeline.tables.controllers import Controllers
from ppo_pipeline.tables.prompt_scores import PROMPT_SCORES
from ppo_pipeline.tables.reference import REFERENCE
from ppo_pipeline.tables.rewards import REWARDS
from ppo_pipeline.tables.rollouts import ROLLOUTS
from ppo_pipeline.tables.schema import flat, lengths, ragged, same_order
from ppo_pipeline.training.advantages import Responses, advantages_of
from ppo_pipeline.training.prompt_memory import remembered, updated


def run(name: str) -> None:
    """Turn scores and logprobs into advantages and returns; write them, the controllers and the memory of prompts."""
    with stage_run(AdvantageSettings, name) as stage:
        paths = stage.paths
        rewards = REWARDS.read(paths.rewards, ["score", "correct"])
        reference = REFERENCE.read(paths.reference)
        rollouts = ROLLOUTS.read(paths.rollouts, ["prompt_id", "finish_reason"])
        same_order(rewards, reference, f"{paths.rewards} and {paths.reference}")
        same_order(rollouts, reference, f"{paths.rollouts} and {paths.reference}")
        memory = PROMPT_SCORES.read(paths.parent_prompt_scores)
        responses = responses_of(rollouts, rewards, reference, memory)
        settings, state = stage.settings, Controllers.read(paths.parent_state)
        found = advantages_of(responses, settings.advantage, state, settings.critic_alone, settings.overlong_limit)
        kind, count = pa.float32(), responses.lengths
        columns = {"token_rewards": found.rewards, "advantages": found.advantages, "returns": found.returns}
        table = {
            n: pa.nulls(len(count), pa.list_(kind)) if c is None else ragged(c, count, kind) for n, c in columns.items()
        }
        table["correct"] = rewards.column("correct") if settings.tells_correct else pa.nulls(len(count), pa.bool_())
        ADVANTAGES.write(pa.table({"sample_id": reference.column("sample_id"), **table}), paths.advantages)
        found.state.write(paths.controllers)
        if (discount := settings.advantage.memory_discount) is not None:
            column = rewards.column("correct")
            correct = None if column.null_count else column.to_pylist()
            prompt_ids = rollouts.column("prompt_id").to_pylist()
            memory = updated(memory, prompt_ids, found.summed, correct, settings.depth, discount)
        PROMPT_SCORES.write(memory, paths.prompt_scores)
        text = f"{len(count)} samples, KL {found.numbers['objective/kl']:.4f} nats a sample"
        if found.flat:
            text += f"; {found.flat} of one token or equal advantages, which whiten_advantages: response makes 0"
        stage.done(text, found.numbers)


def responses_of(rollouts: pa.Table, rewards: pa.Table, reference: pa.Table, memory: pa.Table) -> Responses:
    """Return the numbers of the four tables."""
    critic = not reference.column("values").null_count
    return Responses(
        lengths=lengths(reference, "policy_logprobs"),
        groups=np.unique(rollouts.column("prompt_id").to_numpy(), return_inverse=True)[1],
        cut=np.array(rollouts.column("finish_reason").to_pylist()) == "length",
        scores=rewards.column("score").to_numpy(),
        remembered=remembered(memory, rollouts.column("prompt_id").to_pylist()),
        policy=flat(reference, "policy_logprobs").astype(np.float64),
        reference=flat(reference, "reference_logprobs").astype(np.float64),
        values=flat(reference, "values").astype(np.float64) if critic else None,
        bootstrap=reference.column("bootstrap_value").to_numpy() if critic else None,
    )
