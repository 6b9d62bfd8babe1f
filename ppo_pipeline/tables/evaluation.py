"""eval.parquet: greedy answers to held-out prompts, with their scores."""

import pyarrow as pa

from .schema import TableSchema, field

EVALUATION = TableSchema(
    name="evaluation",
    version=2,
    arrow=pa.schema(
        [
            field("prompt_id", pa.string(), "The prompt, as in prompts.parquet"),
            field("prompt_text", pa.string(), "The prompt as the model saw it, chat template included"),
            field("response_text", pa.string(), "The greedy answer without special tokens and the stop token"),
            field("response_ids", pa.list_(pa.int32()), "Token ids of the answer, the stop token included"),
            field("finish_reason", pa.string(), "stop: ended by a stop token; length: cut at max_new_tokens"),
            field("score", pa.float64(), "Weighted sum of the components, the columns behind `correct`"),
            field("correct", pa.bool_(), "Whether reward.correct counts it as right; empty where that is null", True),
        ]
    ),
    extra=True,
)
