"""A whole round by `dvc repro`, process starts and DVC included, against one update of TRL's PPOTrainer."""

import tempfile
import time
from pathlib import Path
from typing import Any

from ppo_pipeline.engine.warm.launcher import IDLE_SECONDS

from .machine import fast_dtype
from .measuring import measured, module
from .projects import REPRO, change, make_project, peaks, rounds, work_inside

SETTINGS = {"rollout.max_new_tokens": 48, "evaluate.max_new_tokens": 48, "update.epochs": 2, "update.minibatches": 4}


def our_round(
    base: Path, count: int, settings: dict[str, Any], heldout: int = 16, *, following: bool = False
) -> dict[str, Any]:
    """Return wall seconds of the second round, the work inside its stages, and the peak memory.

    That round pays for all starts. `following`: the same of a third one right after it, as `after`: rounds of one
    `dvc repro` find the server of warm starts there.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_project(Path(temporary) / "project", base, count, heldout)
        change(folder, {**settings, "rounds": rounds(1)})
        measured(REPRO, folder)
        time.sleep(IDLE_SECONDS + 2)  # the server is gone
        found = one_more(folder, 2)
        if following:
            found["after"] = one_more(folder, 3)
    return found


def one_more(folder: Path, number: int) -> dict[str, Any]:
    """Run a project's next round and return what it took."""
    change(folder, {"rounds": rounds(number)})
    found = measured(REPRO, folder)
    found["stages"] = work_inside(folder, f"r{number:03d}")
    found["peaks"] = peaks(folder, f"r{number:03d}")
    found["peak_gb"] = round(max(found["peak_gb"], *found["peaks"].values()), 2)  # a warm child is not dvc's child
    found["inside"] = round(sum(found["stages"].values()), 2)
    found["staging_share"] = round(1 - found["inside"] / found["seconds"], 3)
    return found


def run(base: Path, counts: tuple[int, ...] = (32, 128)) -> list[dict[str, Any]]:
    """Return rows for 32 and 128 prompts x 48 tokens, 2 epochs x 4 minibatches, LoRA r 8 on seven projections."""
    rows = []
    for count in counts:
        ours = our_round(base, count, SETTINGS, following=True)
        peer = measured(module("benchmarks.peers.trl_ppo", base, count, 48))
        update = min(peer["updates"])
        what = f"round, {count} prompts x 48 tokens, LoRA, {fast_dtype()}"
        seconds = (("seconds", ours), ("seconds, right after another", ours["after"]))
        rows += [
            {
                "what": f"{what}: {name}",
                "ours": f"{found['seconds']:.1f} s ({found['seconds'] - found['inside']:.1f} s staging)",
                "peer": f"TRL update: {update:.1f} s",
                "ratio": round(update / found["seconds"], 2),
                "target": 4.0 if count == 32 else 8.0,
                "figures": {"ours": found, "peer": peer},
            }
            for name, found in seconds
        ]
        rows.append(
            {
                "what": f"{what}: memory",
                "ours": f"{ours['peak_gb']} GB",
                "peer": f"TRL: {peer['peak_gb']} GB",
                "ratio": round(peer["peak_gb"] / ours["peak_gb"], 2),
                "target": 3.0,
            }
        )
    return rows
