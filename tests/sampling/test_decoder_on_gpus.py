"""The decoder as on GPUs, here on a CPU: trees and steps by the flash kernels, rows rounded up for graphs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model
from sampling.test_decoder_speedups import STOP, with_prefix
from slow_attention import attend_slowly
from tiny_architectures import tiny_architecture
from transformers import CONFIG_MAPPING

from ppo_pipeline.compute import flash
from ppo_pipeline.models import packed
from ppo_pipeline.sampling import decoder as decoder_module
from ppo_pipeline.sampling import graphs
from ppo_pipeline.sampling.decoder import Decoder, Request
from ppo_pipeline.sampling.response import Response
from ppo_pipeline.sampling.streams import uniforms

NEW = 12


def decoded(model: Any, prefix: int, sampled: bool, slots: int = 4) -> list[Response]:
    prompts = with_prefix(prefix)
    requests = [Request(p, uniforms(0, f"s{i}", NEW) if sampled else None) for i, p in enumerate(prompts)]
    return Decoder(model, [STOP, *range(0, 256, 20)], NEW, 0.9, slots).decode(requests)


def assert_alike(found: list[Response], expected: list[Response]) -> None:
    assert [r.ids for r in found] == [r.ids for r in expected]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-4, rtol=0)


@pytest.fixture
def flash_calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Have a slow loop for the flash kernels, and none of ours; return `used` of each call."""
    calls: list[Any] = []

    def attend(*args: Any) -> torch.Tensor:
        calls.append(args[3].used)
        return attend_slowly(*args)

    monkeypatch.setattr(flash, "serves", lambda *_: True)
    monkeypatch.setattr(flash, "attend", attend)
    monkeypatch.setattr(packed, "attends", lambda q: False)
    monkeypatch.setattr(decoder_module, "can_branch", lambda model: True)
    return calls


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("prefix", [0, 20])
def test_by_the_flash_kernels_it_decodes_the_same(
    architecture: str, prefix: int, sampled: bool, request: pytest.FixtureRequest
) -> None:
    expected = decoded(tiny_model(architecture), prefix, sampled)
    calls = request.getfixturevalue("flash_calls")
    assert_alike(decoded(tiny_model(architecture), prefix, sampled), expected)
    assert any(used is None for used in calls) and any(used is not None for used in calls)


@pytest.mark.parametrize("kind", ["jetmoe", "glm4_moe_lite", "deepseek_v3", "gemma4_text"])
def test_models_that_make_keys_of_their_own_are_decoded_by_masks(kind: str, request: pytest.FixtureRequest) -> None:
    """Of the cache's: repeated, or from latent ones. Gemma 4's heads are of two widths."""
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {kind}")
    rng = np.random.default_rng(0)
    asked = [Request([3, 5, 7, 9, 11, 4, 6, 8, 10, *rng.integers(3, 60, 4)], None) for _ in range(3)]
    texts = [Decoder(tiny_architecture(kind), [2], 5, 1.0, 2).decode(asked)]
    request.getfixturevalue("flash_calls")
    texts.append(Decoder(tiny_architecture(kind), [2], 5, 1.0, 2).decode(asked))
    assert_alike(*texts)


class PlainGraphs(graphs.StepGraphs):
    """StepGraphs without CUDA: each shape is `captured` at its first use, and replayed into one tensor."""

    shapes: dict[tuple[int, int], torch.Tensor]

    def __init__(self, forward: Any, device: torch.device) -> None:
        super().__init__(forward, device)
        self.shapes = {}

    def __call__(self, ids: list[int], positions: list[int], width: int) -> torch.Tensor:
        found = self._forward(torch.tensor([ids, positions]), width)
        room = self.shapes.setdefault((len(ids), width), torch.empty_like(found))
        return room.copy_(found)


@pytest.mark.parametrize("prefix", [0, 20])
def test_rows_and_widths_that_are_rounded_up_change_nothing(
    architecture: str, prefix: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step overwrites the last one's logits, as a graph does."""
    expected = decoded(tiny_model(architecture), prefix, True, slots=7)
    made: list[PlainGraphs] = []

    def stand_in(forward: Any, device: torch.device) -> PlainGraphs:
        made.append(PlainGraphs(forward, device))
        return made[-1]

    monkeypatch.setattr(decoder_module, "StepGraphs", stand_in)
    monkeypatch.setattr(decoder_module, "in_graphs", lambda device: True)
    monkeypatch.setattr(graphs, "LEAST_ROWS", 2)
    assert_alike(decoded(tiny_model(architecture), prefix, True, slots=7), expected)
    (shapes,) = [set(each.shapes) for each in made]
    assert {rows for rows, _ in shapes} <= {2, 4, 7}


def test_rows_of_a_step_by_hand() -> None:
    wanted = {1: 8, 8: 8, 9: 16, 16: 16, 17: 32, 33: 48, 48: 48}
    assert {count: graphs.rows_of_a_step(count, 48) for count in wanted} == wanted
    assert graphs.rows_of_a_step(3, 5) == 5


class Cuda:
    """Stands for torch.cuda: a capture runs what is in it, a replay counts. `waits`: the step waits for the GPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.replays, self.captures, self.stream, self.pools, self.sync = 0, 0, "default", 0, 0
        self.waits = self.fails = False
        names = ("CUDAGraph", "graph", "graph_pool_handle", "current_stream", "set_stream", "get_sync_debug_mode",
                 "set_sync_debug_mode")  # fmt: skip
        for name in names:
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))

    def CUDAGraph(self) -> "Cuda":
        return self

    @contextmanager
    def graph(self, graph: "Cuda", pool: int) -> Iterator[None]:
        assert pool == self.pools
        self.stream, self.captures = "capture", self.captures + 1
        yield
        if self.fails:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        self.stream = "default"

    def replay(self) -> None:
        self.replays += 1

    def graph_pool_handle(self) -> int:
        self.pools += 1
        return self.pools

    def current_stream(self) -> str:
        return self.stream

    def set_stream(self, stream: str) -> None:
        self.stream = stream

    def get_sync_debug_mode(self) -> int:
        return self.sync

    def set_sync_debug_mode(self, mode: int | str) -> None:
        self.sync = {"error": 2}.get(mode, mode)  # type: ignore[arg-type,assignment]


def ran(cuda: Cuda, keys: list[tuple[int, int]]) -> list[str]:
    """Run steps of so many rows and widths; return how each was run."""
    how: list[str] = []

    def forward(ids: torch.Tensor, positions: torch.Tensor, width: int) -> torch.Tensor:
        if cuda.sync == 2:
            if cuda.waits:
                raise RuntimeError("called a synchronizing CUDA operation")
        elif cuda.stream == "default":
            how.append("plain")
        return ids.float()

    steps = graphs.StepGraphs(forward, torch.device("cpu"))
    for count, (rows, width) in enumerate(keys):
        before = cuda.replays
        found = steps([count] * rows, [0] * rows, width)
        how += ["replayed"] * (cuda.replays - before)
        assert found.shape == (rows, 1) and cuda.sync == 0 and cuda.stream == "default"
    return how


def test_a_shape_s_third_step_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch)
    assert ran(cuda, [(8, 256)] * 5) == ["plain", "plain", "replayed", "replayed", "replayed"]
    assert cuda.captures == 1
    assert ran(cuda, [(8, 256), (4, 256)] * 3) == ["plain"] * 4 + ["replayed"] * 2


def test_graphs_of_another_width_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch)
    widths = [256] * 3 + [512] * 3 + [256] * 2
    assert ran(cuda, [(8, width) for width in widths]) == ["plain", "plain", "replayed"] * 2 + ["replayed"] * 2
    assert (cuda.captures, cuda.pools) == (3, 3)


@pytest.mark.parametrize(("what", "captures"), [("waits", 0), ("fails", 1)])
def test_a_step_that_cannot_be_captured_goes_on_plain(
    what: str, captures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the stream that it was on, and it is tried once."""
    cuda = Cuda(monkeypatch)
    setattr(cuda, what, True)
    assert ran(cuda, [(8, 256)] * 5) == ["plain"] * 5
    assert cuda.captures == captures
