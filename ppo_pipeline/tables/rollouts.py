"""rollouts.parquet: the sampled responses of a round."""

import pyarrow as pa

from .schema import TableSchema, field

TOKENS = pa.list_(pa.int32())
FLOATS = pa.list_(pa.float32())

ROLLOUTS = TableSchema(
    name="rollouts",
    version=2,
    arrow=pa.schema(
        [
            field("sample_id", pa.string(), "Unique name of the sample: round, prompt, index"),
            field("prompt_id", pa.string(), "The prompt, as in prompts.parquet"),
            field("sample_index", pa.int32(), "Which of the prompt's samples this is, from 0"),
            field("prompt_text", pa.string(), "The prompt as the model saw it, chat template included"),
            field("response_text", pa.string(), "The response without special tokens and the stop token"),
            field("prompt_ids", TOKENS, "Token ids of the prompt"),
            field("response_ids", TOKENS, "Token ids of the response, the stop token included"),
            field(
                "rollout_logprobs",
                FLOATS,
                "The sampler's own log probability of each response token at the temperature, in nats",
            ),
            field(
                "kept_mass",
                FLOATS,
                "Probability, before them, of the tokens that top_k, top_p, min_p or greedy left to choose from: each "
                "token was drawn with log probability rollout_logprobs - log(kept_mass)",
            ),
            field("finish_reason", pa.string(), "stop: ended by a stop token; length: cut at max_new_tokens"),
        ]
    ),
    ragged=[("response_ids", "rollout_logprobs", "kept_mass")],
)
