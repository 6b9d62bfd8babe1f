"""A decoder that is stopped anywhere goes on from its snapshot to the same bits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_model
from test_decoder_speedups import with_prefix

from ppo_pipeline.models.prepacked import prepack_linears
from ppo_pipeline.resume.snapshots import INTERVAL, Snapshots
from ppo_pipeline.sampling.decoder import Decoder, Request
from ppo_pipeline.sampling.response import Response
from ppo_pipeline.sampling.streams import uniforms

STOP, NEW = 257, 12


class Killed(BaseException):
    """In place of SIGKILL: nothing in between may catch it and tidy up."""


def requests(prefix: int, samples: int = 2) -> list[Request]:
    prompts = with_prefix(prefix)
    return [Request(p, uniforms(0, f"{i}-{k}", NEW)) for i, p in enumerate(prompts) for k in range(samples)]


def decoder(model: torch.nn.Module, slots: int) -> Decoder:
    return Decoder(model, [STOP, *range(0, 256, 9)], NEW, 0.9, slots)


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INTERVAL, "0")
    monkeypatch.setattr(Snapshots, "_pause", lambda self: 0.0)


@pytest.mark.parametrize(("prefix", "slots"), [(0, 16), (0, 4), (20, 4), (20, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stopped_at_every_step_it_ends_with_the_same_bits(
    architecture: str, prefix: int, slots: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = tiny_model(architecture).to(dtype)
    prepack_linears(model)
    wanted = decoder(model, slots).decode(requests(prefix))
    steps, stops = 0, 0
    while True:
        left = 2  # a snapshot is made behind the first step, and the second is lost

        def step(tokens: int, done: int) -> None:
            nonlocal left, steps
            if tokens:
                left, steps = left - 1, steps + 1
                if not left:
                    raise Killed

        try:
            found = decoder(model, slots).decode(requests(prefix), step, Snapshots(tmp_path / "s", "rollout"))
            break
        except Killed:
            stops += 1
    assert found == wanted
    assert stops >= NEW - 1
    assert {c.finish_reason for c in found} == {"stop", "length"}, "both kinds of ends are in it"


def test_what_was_done_is_not_done_again(tmp_path: Path) -> None:
    model, seen = tiny_model("llama"), []
    every = requests(0)
    decoder(model, 4).decode(every, lambda tokens, done: seen.append(tokens), Snapshots(tmp_path / "s", "rollout"))
    again: list[int] = []
    found = decoder(model, 4).decode(every, lambda tokens, done: again.append(tokens), Snapshots(tmp_path / "s", "r"))
    assert sum(seen) == sum(len(c.ids) for c in found)
    assert sum(again) == 0


def test_a_damaged_snapshot_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, every = tiny_model("llama"), requests(20)
    wanted = decoder(model, 4).decode(every)
    damaged = 0
    for place in ("responses.safetensors", "order.json", "layer-1", "prefix-0"):
        snapshots = Snapshots(tmp_path / place, "rollout")

        def stop(tokens: int, done: int, kept: Snapshots = snapshots) -> None:
            if kept.newest() and kept.newest().name == "000003":  # type: ignore[union-attr]
                raise Killed

        with pytest.raises(Killed):
            decoder(model, 4).decode(every, stop, snapshots)
        file = snapshots.newest() / place  # type: ignore[operator]
        content = bytearray(file.read_bytes())
        content[-3] ^= 1
        file.write_bytes(content)
        assert decoder(model, 4).decode(every, snapshots=snapshots) == wanted
        damaged += "is damaged, starting anew" in capsys.readouterr().err
    assert damaged == 4


def test_numbers_survive_as_they_are(tmp_path: Path) -> None:
    model = tiny_model("llama")
    kept = Snapshots(tmp_path / "s", "rollout")
    wanted = decoder(model, 3).decode(requests(0), snapshots=kept)
    found = decoder(model, 3).decode(requests(0), snapshots=kept)
    assert found == wanted and all(isinstance(c, Response) for c in found)
    assert all(np.float32(x) == x for c in found for x in c.logprobs)
