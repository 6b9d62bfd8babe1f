"""advantages.parquet: what the update learns from."""

import pyarrow as pa

from .schema import TableSchema, field

FLOATS = pa.list_(pa.float32())

ADVANTAGES = TableSchema(
    name="advantages",
    version=3,
    arrow=pa.schema(
        [
            field("sample_id", pa.string(), "The sample, as in rollouts.parquet"),
            field("token_rewards", FLOATS, "Reward of each response token: KL penalty, and the score on the last one"),
            field("advantages", FLOATS, "Advantage of each response token, whitened over round or response if so set"),
            field(
                "returns",
                FLOATS,
                "Target of the value: advantage before whitening, plus value; empty where no value is learned",
                nullable=True,
            ),
            field(
                "correct",
                pa.bool_(),
                "Whether it is a right answer, as in rewards.parquet; empty where update.likelihood_coef is 0",
                nullable=True,
            ),
        ]
    ),
    ragged=[("token_rewards", "advantages", "returns")],
)
