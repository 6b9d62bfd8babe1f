"""reference.parquet: what the training forward says of each sampled token."""

import pyarrow as pa

from .schema import TableSchema, field

FLOATS = pa.list_(pa.float32())

REFERENCE = TableSchema(
    name="reference",
    version=3,
    arrow=pa.schema(
        [
            field("sample_id", pa.string(), "The sample, as in rollouts.parquet"),
            field(
                "policy_logprobs",
                FLOATS,
                "Log probability of each response token under the sampling policy, nats",
            ),
            field("reference_logprobs", FLOATS, "The same under the untrained base model"),
            field(
                "values",
                FLOATS,
                "V[t]: value of the state before response token t; empty without a critic",
                nullable=True,
            ),
            field(
                "bootstrap_value",
                pa.float32(),
                "Value of the state after the last response token; empty without a critic",
                nullable=True,
            ),
            field("entropy", FLOATS, "Entropy of the policy over each response token, nats"),
        ]
    ),
    ragged=[("policy_logprobs", "reference_logprobs", "values", "entropy")],
)
