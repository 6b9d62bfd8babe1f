"""prompt_scores.parquet: what is remembered of each training prompt after a round; empty without memory_discount."""

import pyarrow as pa

from .schema import TableSchema, field

PROMPT_SCORES = TableSchema(
    name="prompt_scores",
    version=1,
    arrow=pa.schema(
        [
            field("prompt_id", pa.string(), "The prompt, as in prompts.parquet"),
            field("samples", pa.int64(), "Responses sampled to it so far"),
            field("weight", pa.float64(), "What they count, after advantage.memory_discount"),
            field(
                "reward_mean",
                pa.float64(),
                "Their weighted mean reward: the score as `advantage` shapes it, less the KL penalty",
            ),
            field("judged", pa.float64(), "What those count of which reward.correct says whether they are right"),
            field("right", pa.float64(), "What the right ones among these count"),
            field("depth", pa.int32(), "How many rounds from the start the last one is that sampled it"),
        ]
    ),
)
