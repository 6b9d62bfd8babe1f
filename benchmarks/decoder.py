"""The decoder against transformers' generate: useful tokens per second."""

from pathlib import Path
from typing import Any

from .measuring import measured, module


def run(base: Path, passes: int = 2) -> list[dict[str, Any]]:
    """Return rows for batch 128 and batch 1, 128 new tokens each."""
    rows = []
    for count, tokens in ((128, 128), (1, 128)):
        arguments = (base, count, tokens, passes if count > 1 else 3 * passes)
        ours = measured(module("benchmarks.peers.ours_decoder", *arguments))
        peer = measured(module("benchmarks.peers.generate", *arguments))
        rows.append(
            {
                "what": f"decoder, {count} prompts x {tokens} tokens, bf16",
                "ours": f"{ours['tokens_per_second']:,.0f} tokens/s, {ours['peak_gb']} GB",
                "peer": f"generate: {peer['tokens_per_second']:,.0f} tokens/s, {peer['peak_gb']} GB",
                "ratio": round(ours["tokens_per_second"] / peer["tokens_per_second"], 2),
                "target": 8.0 if count > 1 else 1.0,
                "figures": {"ours": ours, "peer": peer},
            }
        )
    return rows
