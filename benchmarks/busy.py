"""The decoder and `generate` beside busy processes: tokens per second against a fair share of the quiet rate.

Of n processes beside N others that never wait, a fair scheduler gives each 1 / (N + 1) of the machine.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .machine import fast_dtype
from .measuring import module
from .turns import side_by_side

OTHERS = (1, 3)
PROMPTS, TOKENS, TURNS = 32, 64, 3
OWN, FIXED, GENERATE = "own decoder", "own, threads fixed", "generate"
AIM = 1.5  # times slower than the fair share, at most


def run(base: Path) -> list[dict[str, Any]]:
    """Return a row for each number of busy processes and each of ours, the threads fixed, and generate."""
    given = (base.absolute(), PROMPTS, TOKENS, fast_dtype())
    threads = str(torch.get_num_threads())
    commands = {
        OWN: module("benchmarks.peers.engine", *given, "own"),
        FIXED: module("benchmarks.peers.engine", *given, "own", threads),
        GENERATE: module("benchmarks.peers.generate", *given),
    }
    quiet = side_by_side(commands, TURNS)
    rows = []
    for count in OTHERS:
        with busy(count):
            found = side_by_side(commands, TURNS)
        for name in commands:
            now, alone = found[name]["tokens_per_second"], quiet[name]["tokens_per_second"]
            slower = alone / (count + 1) / now
            rows.append({
                "what": f"{PROMPTS} prompts x {TOKENS} tokens beside {count} busy processes, {os.cpu_count()} cores",
                "ours": f"{name}: {now:,.1f} tokens/s", "peer": f"quiet {alone:,.0f}, fair {alone / (count + 1):,.0f}",
                "ratio": f"{slower:.2f} times slower than fair", **({"target": AIM} if name == OWN else {}),
                "figures": {"now": found[name], "quiet": quiet[name]},
            })  # fmt: skip
    return rows


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep so many processes turning in a loop."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()
