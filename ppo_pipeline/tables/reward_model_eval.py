"""data/reward_model_eval/<name>.parquet: held-out pairs of answers with what a reward model says of them."""

import pyarrow as pa

from .prompts import MESSAGE
from .schema import TableSchema, field

REWARDS = pa.list_(pa.float64())

REWARD_MODEL_EVAL = TableSchema(
    name="reward_model_eval",
    version=1,
    arrow=pa.schema(
        [
            field("pair_id", pa.string(), "The pair, as in the table of preferences"),
            field("prompt_id", pa.string(), "Its prompt"),
            field("messages", pa.list_(MESSAGE), "The conversation that both answers go on with"),
            field("chosen", pa.string(), "The answer that was preferred"),
            field("rejected", pa.string(), "The other one"),
            field("chosen_tokens", pa.int32(), "Tokens that the model reads for the chosen answer, with the prompt"),
            field("rejected_tokens", pa.int32(), "Tokens that it reads for the other one"),
            field("chosen_reward", pa.float64(), "Reward of the chosen answer; of an ensemble its members' mean"),
            field("rejected_reward", pa.float64(), "Reward of the other one"),
            field("chosen_rewards", REWARDS, "Each member's reward of the chosen answer; one without an ensemble"),
            field("rejected_rewards", REWARDS, "Each member's reward of the other one"),
        ]
    ),
    ragged=(("chosen_rewards", "rejected_rewards"),),
)
