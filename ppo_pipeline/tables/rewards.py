"""rewards.parquet: the score of each sample and the components that it is the weighted sum of."""

import pyarrow as pa

from .schema import TableSchema, field

REWARDS = TableSchema(
    name="rewards",
    version=2,
    arrow=pa.schema(
        [
            field("sample_id", pa.string(), "The sample, as in rollouts.parquet"),
            field("score", pa.float64(), "Weighted sum of the components, the columns behind `correct`"),
            field("correct", pa.bool_(), "Whether reward.correct counts it as right; empty where that is null", True),
        ]
    ),
    extra=True,
)
