"""The notebooks' own sizes: a round of 2 prompts x 50 tokens on Qwen3-0.6B's shape, 64 samples on Qwen2-0.5B's."""

import tempfile
from pathlib import Path
from typing import Any

from .measuring import measured, module
from .random_base import make_random_base
from .whole_round import our_round

COMMON = {"compute.dtype": "bf16", "update.epochs": 2, "evaluate.max_prompts": 1, "evaluate.max_new_tokens": 8}
TWO_PROMPTS = {**COMMON, "rollout.max_new_tokens": 50, "update.minibatches": 2, "update.lr": 1e-5}
SIXTY_FOUR = {**COMMON, "rollout.max_new_tokens": 48, "update.minibatches": 4}


def run(base: Path) -> list[dict[str, Any]]:
    """Return rows for full-parameter and LoRA training at the first notebook's size, and for the second's."""
    with tempfile.TemporaryDirectory() as temporary:
        qwen3 = make_random_base("qwen3", base, Path(temporary) / "qwen3")
        peer = measured(module("benchmarks.peers.notebook_full", qwen3, 2))
        full = our_round(qwen3, 2, {**TWO_PROMPTS, "policy.tuning": "full"}, heldout=1)
        lora = our_round(qwen3, 2, TWO_PROMPTS, heldout=1)
        qwen2 = make_random_base("qwen2", base, Path(temporary) / "qwen2")
        second = our_round(qwen2, 64, SIXTY_FOUR, heldout=1)
    peer_text = f"notebook's way: {min(peer['rounds']):.1f} s, {peer['rss_gb']} GB"
    rows = []
    for name, ours, target in (("full-parameter", full, 9.0), ("LoRA", lora, 4.0)):
        rows.append(
            {
                "what": f"Qwen3-0.6B's shape, 2 prompts x 50 tokens, {name}",
                "ours": f"{ours['inside']:.1f} s of work, {ours['seconds']:.1f} s in all, {ours['peak_gb']} GB",
                "peer": peer_text,
                "ratio": round(min(peer["rounds"]) / ours["inside"], 2),
                "target": f"7 s, {target} GB",
                "figures": {"ours": ours, "peer": peer},
            }
        )
    rows.append(
        {
            "what": "Qwen2-0.5B's shape, 64 samples x 48 tokens, LoRA",
            "ours": f"{second['inside'] / 64:.2f} s of work a sample, {second['peak_gb']} GB",
            "peer": "the LoRA notebook's code: 3.2 s a trajectory (measured on an older machine)",
            "ratio": round(3.2 * 64 / second["inside"], 1),
            "target": "0.25 s",
            "figures": {"ours": second},
        }
    )
    return rows
