"""A whole round by `dvc repro`, process starts and DVC included, against one update of TRL's PPOTrainer."""

import tempfile
import time
from pathlib import Path
from typing import Any

from ppo_pipeline.engine.warm.launcher import IDLE_SECONDS

from .measuring import measured, module
from .projects import change, make_project, peaks, rounds, work_inside

SETTINGS = {
    "rollout.max_new_tokens": 48, "evaluate.max_new_tokens": 48, "update.epochs": 2, "update.minibatches": 4,
    "compute.dtype": "bf16",
}  # fmt: skip


def our_round(base: Path, count: int, settings: dict[str, Any], heldout: int = 16) -> dict[str, Any]:
    """Return wall seconds of the second round, the work inside its stages, and the peak memory."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_project(Path(temporary) / "project", base, count, heldout)
        change(folder, {**settings, "rounds": rounds(1)})
        measured(["dvc", "repro", "--quiet"], folder)
        change(folder, {"rounds": rounds(2)})
        time.sleep(IDLE_SECONDS + 2)  # the server of warm starts is gone: the measured round pays for its start
        found = measured(["dvc", "repro", "--quiet"], folder)
        found["stages"] = work_inside(folder, "r002")
        found["peaks"] = peaks(folder, "r002")
        found["peak_gb"] = round(max(found["peak_gb"], *found["peaks"].values()), 2)  # a warm child is not dvc's child
    found["inside"] = round(sum(found["stages"].values()), 2)
    found["staging_share"] = round(1 - found["inside"] / found["seconds"], 3)
    return found


def run(base: Path, counts: tuple[int, ...] = (32, 128)) -> list[dict[str, Any]]:
    """Return rows for 32 and 128 prompts x 48 tokens, 2 epochs x 4 minibatches, LoRA r 8 on seven projections."""
    rows = []
    for count in counts:
        ours = our_round(base, count, SETTINGS)
        peer = measured(module("benchmarks.peers.trl_ppo", base, count, 48))
        update = min(peer["updates"])
        what = f"round, {count} prompts x 48 tokens, LoRA, bf16"
        rows += [
            {
                "what": f"{what}: seconds",
                "ours": f"{ours['seconds']:.1f} s ({ours['staging_share']:.0%} staging)",
                "peer": f"TRL update: {update:.1f} s",
                "ratio": round(update / ours["seconds"], 2),
                "target": 4.0 if count == 32 else 8.0,
                "figures": {"ours": ours, "peer": peer},
            },
            {
                "what": f"{what}: memory",
                "ours": f"{ours['peak_gb']} GB",
                "peer": f"TRL: {peer['peak_gb']} GB",
                "ratio": round(peer["peak_gb"] / ours["peak_gb"], 2),
                "target": 3.0,
            },
        ]
    return rows
