"""The decoder as on GPUs, here on a CPU: trees and steps by the flash kernels, rows rounded up for graphs."""

from typing import Any

import pytest
import torch
from conftest import tiny_model
from sampling.test_decoder_speedups import STOP, with_prefix
from slow_attention import attend_slowly

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


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("prefix", [0, 20])
def test_by_the_flash_kernels_it_decodes_the_same(
    architecture: str, prefix: int, sampled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = decoded(tiny_model(architecture), prefix, sampled)
    calls = []

    def attend(*args: Any) -> torch.Tensor:
        calls.append(args[3].used)
        return attend_slowly(*args)

    for module in (packed.flash, decoder_module.flash):
        monkeypatch.setattr(module, "serves", lambda *_: True)
        monkeypatch.setattr(module, "attend", attend)
    monkeypatch.setattr(packed, "attends", lambda q: False)
    monkeypatch.setattr(decoder_module, "can_branch", lambda model: True)
    assert_alike(decoded(tiny_model(architecture), prefix, sampled), expected)
    assert any(used is None for used in calls) and any(used is not None for used in calls)


class PlainGraphs(graphs.StepGraphs):
    """StepGraphs without CUDA: each shape is `captured` at its first use, and replayed into one tensor."""

    shapes: dict[tuple[int, int], torch.Tensor]

    def __init__(self, forward: Any, device: torch.device) -> None:
        self.forward, self.device, self.shapes = forward, device, {}

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
