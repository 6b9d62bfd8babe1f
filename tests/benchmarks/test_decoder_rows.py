"""The decoder's benchmark with a tiny model: its rows come out, with vLLM where `make vllm` has installed it."""

import sys
from pathlib import Path
from typing import Any

import pytest
from served_models import save_served

from benchmarks import decoder
from benchmarks.measuring import ROOT, module
from benchmarks.turns import side_by_side, standing

PEER = """
import sys
from pathlib import Path
from benchmarks.peers.answering import Sampler, answer
def sample(number):
    if number == 9:
        raise ValueError("what went wrong")
    with open(sys.argv[6], "a") as order:
        print(sys.argv[5], number, file=order)
    print("a library's greeting", flush=True)
    return 7 * number
answer(lambda work, name, order, prompts: Sampler(int(prompts), sample))
"""


def peer(tmp_path: Path, name: str, prompts: int = 4) -> list[str]:
    return [sys.executable, "-c", PEER, *map(str, ("base", 1, 1, "float32", name, tmp_path / "order", prompts))]


def rows_of(folder: Path, vllm: Path) -> list[tuple[str, str, Any]]:
    """Return who is held against whom, and the ratio."""
    rows = decoder.run(save_served(folder), vllm, cases=((3, 5, 2),))
    for row in rows:
        for figures in row.get("figures", {}).values():
            assert len(figures["turns"]) == 2
            assert all(3 <= turn["tokens"] <= 15 for turn in figures["turns"])
            assert figures["peak_gb"] > 0.1
    return [(row["ours"].split(":")[0], row["peer"].split(":")[0], row.get("ratio")) for row in rows]


@pytest.mark.rare
def test_without_vllm_the_rows_say_so(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, tmp_path / "no-python")
    own = "own decoder"
    assert [row[:2] for row in rows] == [
        (own, "generate"), (own, "continuous batching"), (own, "vLLM not installed")
    ]  # fmt: skip
    assert [ratio is not None for *_, ratio in rows] == [True, True, False]


@pytest.mark.skipif(not (ROOT / decoder.VLLM).exists(), reason="make vllm")
def test_with_vllm_every_peer_has_a_row(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, ROOT / decoder.VLLM)
    peers = [decoder.ENGINE, decoder.ALIKE, decoder.FASTEST, decoder.GENERATE, decoder.BATCHING]
    assert [row[:2] for row in rows] == [(decoder.OWN, each) for each in peers] + [(decoder.ENGINE, decoder.ALIKE)]
    assert all(ratio for *_, ratio in rows)


def test_turns_alternate_and_what_libraries_print_is_no_answer(tmp_path: Path) -> None:
    found = side_by_side({name: peer(tmp_path, name) for name in "ab"}, 3)
    order = (tmp_path / "order").read_text().split("\n")[:-1]
    assert order == [f"{name} {number}" for number in range(4) for name in "ab"]
    assert [turn["tokens"] for turn in found["a"]["turns"]] == [7, 14, 21]


def test_other_prompts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the prompts differ"):
        side_by_side({"a": peer(tmp_path, "a"), "b": peer(tmp_path, "b", prompts=5)}, 1)


@pytest.mark.parametrize("command", [module("benchmarks.peers.engine", "no-base", 1, 1, "float32", "own"), None])
def test_a_process_that_fails_is_told_with_its_output(tmp_path: Path, command: list[str] | None) -> None:
    with pytest.raises(RuntimeError, match=r"failed:(.|\n)*(no-base|what went wrong)"), \
            standing(command or peer(tmp_path, "a")) as process:  # fmt: skip
        process.turn(9)
