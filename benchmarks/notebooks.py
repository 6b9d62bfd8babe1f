"""The notebooks' own sizes: a round of 2 prompts x 50 tokens on Qwen3-0.6B's shape, 64 samples on Qwen2-0.5B's."""

import tempfile
from pathlib import Path
from typing import Any

from .machine import fast_dtype
from .measuring import measured, module
from .random_base import make_random_base
from .whole_round import our_round

COMMON = {"update.epochs": 2, "update.target_kl": None, "evaluate.max_prompts": 1, "evaluate.max_new_tokens": 8}
TWO_PROMPTS = {**COMMON, "rollout.max_new_tokens": 50, "update.minibatches": 2, "update.lr": 1e-5}
FIRST_NOTEBOOK: tuple[tuple[str, dict[str, Any], float], ...] = (  # name, settings, GB that are the aim
    ("full-parameter", {"policy.tuning": "full"}, 9.0),
    ("full-parameter, moments in 8 bits", {"policy.tuning": "full", "update.optimizer": "adamw_8bit"}, 9.0),
    ("LoRA", {}, 4.0),
)
SIXTY_FOUR = {**COMMON, "rollout.max_new_tokens": 48, "update.minibatches": 4}


def run(base: Path) -> list[dict[str, Any]]:
    """Return rows for full-parameter and LoRA training at the first notebook's size, and for the second's."""
    with tempfile.TemporaryDirectory() as temporary:
        qwen3 = make_random_base("qwen3", base, Path(temporary) / "qwen3")
        peer = measured(module("benchmarks.peers.notebook_full", qwen3, 2))
        ours = {name: our_round(qwen3, 2, {**TWO_PROMPTS, **changes}, heldout=1) for name, changes, _ in FIRST_NOTEBOOK}
        qwen2 = make_random_base("qwen2", base, Path(temporary) / "qwen2")
        second = our_round(qwen2, 64, SIXTY_FOUR, heldout=1)
    peer_text = f"notebook's way: {min(peer['rounds']):.1f} s, {peer['rss_gb']} GB"
    rows = []
    for name, _, target in FIRST_NOTEBOOK:
        found = ours[name]
        rows.append(
            {
                "what": f"Qwen3-0.6B's shape, 2 prompts x 50 tokens, {name}, {fast_dtype()}",
                "ours": f"{found['inside']:.1f} s of work, {found['seconds']:.1f} s in all, {found['peak_gb']} GB",
                "peer": peer_text,
                "ratio": round(min(peer["rounds"]) / found["inside"], 2),
                "target": f"7 s, {target} GB",
                "figures": {"ours": found, "peer": peer},
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
