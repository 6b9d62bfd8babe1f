"""The decoder beside transformers' generate and continuous batching, and vLLM: useful tokens per second, in turns."""

from pathlib import Path
from typing import Any

from .machine import fast_dtype
from .measuring import module
from .turns import side_by_side

VLLM = Path(".venv-vllm/bin/python")  # `make vllm`
CASES = ((128, 128, 3), (1, 128, 9))  # prompts, tokens, turns
OWN, ENGINE, ALIKE, FASTEST = "own decoder", "vLLM by our engine", "vLLM, its own draw", "vLLM as it comes"
GENERATE, BATCHING = "generate", "continuous batching"
AIMS = {128: 8.0, 1: 1.0}  # over generate, by the number of prompts


def run(base: Path, vllm: Path = VLLM, cases: tuple[tuple[int, int, int], ...] = CASES) -> list[dict[str, Any]]:
    """Return for each case rows of the decoder against each peer, and of vLLM by our engine against vLLM alone.

    vllm: the interpreter of an environment with vLLM; where there is none, one row says so.
    """
    dtype = fast_dtype()
    rows = []
    for count, tokens, turns in cases:
        found = side_by_side(commands((base.absolute(), count, tokens, dtype), vllm), turns)
        pairs = [(OWN, peer) for peer in found if peer != OWN] + [(ENGINE, ALIKE)] * (ENGINE in found)
        what = f"{count} prompts x {tokens} tokens, {dtype}"
        rows += [row(what, one, other, found, AIMS.get(count) if other == GENERATE else None) for one, other in pairs]
        if not vllm.exists():
            missing = f"vLLM not installed: make vllm ({vllm} is not there)"
            rows.append({"what": f"sampling, {what}", "ours": told(OWN, found), "peer": missing})
    return rows


def commands(arguments: tuple[object, ...], vllm: Path) -> dict[str, list[str]]:
    """Return the processes to measure, in the order of their turns: those of vLLM between the others."""
    found = {OWN: module("benchmarks.peers.engine", *arguments, "own")}
    if vllm.exists():
        python = str(vllm.absolute())  # not resolved: a virtual environment's interpreter is a link
        found[ENGINE] = module("benchmarks.peers.engine", *arguments, "vllm", python=python)
        found[ALIKE] = module("benchmarks.peers.vllm_plain", *arguments, "alike", python=python)
        found[FASTEST] = module("benchmarks.peers.vllm_plain", *arguments, "fastest", python=python)
    found[GENERATE] = module("benchmarks.peers.generate", *arguments)
    found[BATCHING] = module("benchmarks.peers.continuous_batching", *arguments)
    return found


def row(what: str, one: str, other: str, found: dict[str, dict[str, Any]], aim: float | None) -> dict[str, Any]:
    """Return a row of one against another."""
    ratio = found[one]["tokens_per_second"] / found[other]["tokens_per_second"]
    cells = {"what": f"sampling, {what}", "ours": told(one, found), "peer": told(other, found)}
    figures = {"figures": {one: found[one], other: found[other]}}
    return {**cells, "ratio": round(ratio, 2), **({"target": aim} if aim else {}), **figures}


def told(name: str, found: dict[str, dict[str, Any]]) -> str:
    """Return the figures of one, for a cell."""
    f = found[name]
    return f"{name}: {f['tokens_per_second']:,.0f} tokens/s, {f['peak_gb']} GB, loads in {f['load_seconds']:.0f} s"
