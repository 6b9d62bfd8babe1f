"""A process that stays loaded and samples when it is told to (benchmarks/turns.py): its side of the conversation."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Work(NamedTuple):
    """What to sample: `count` prompts, up to `new_tokens` each, at temperature 1, from the whole vocabulary."""

    base: Path
    count: int
    new_tokens: int
    dtype: str


class Sampler(NamedTuple):
    """prompt_tokens: of all prompts. sample: takes a turn's number, returns useful tokens, end tokens included."""

    prompt_tokens: int
    sample: Callable[[int], int]


def answer(load: Callable[..., Sampler]) -> None:
    """Load as the command line says; for each number on stdin sample, and say how long it took.

    stdout is kept for the answers: what libraries print there goes to stderr.
    """
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    base, count, new_tokens, dtype, *rest = sys.argv[1:]
    found = load(Work(Path(base), int(count), int(new_tokens), dtype), *rest)
    print(json.dumps({"prompt_tokens": found.prompt_tokens}), file=told)
    for line in sys.stdin:
        started, cpu = time.perf_counter(), time.process_time()
        tokens = found.sample(int(line))
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        print(json.dumps({"seconds": round(seconds, 6), "cpu_seconds": round(cpu, 3), "tokens": tokens}), file=told)
