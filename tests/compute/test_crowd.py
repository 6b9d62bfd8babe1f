"""Threads that step down beside other processes: by how much, and without a change of any bit."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from reward_pairs import REPOSITORY, RewardProject
from ruamel.yaml import YAML
from sft_project import sft_project
from stage_runs import Stages

from ppo_pipeline.compute import crowd
from ppo_pipeline.compute.crowd import Seen, free
from ppo_pipeline.compute.machine import set_up
from ppo_pipeline.settings.sections import Compute
from ppo_pipeline.storage.files import sha256_of


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("idle", "own", "threads"),
    [
        (2.0, 2.0, 4),  # alone: two processors turned for us, two were idle
        (0.0, 3.8, 4),  # a daemon took a little
        (0.0, 3.5, 3),  # somebody took half a processor, and would take more
        (0.0, 0.8, 1),  # pushed aside by many
        (3.9, 0.0, 4),  # waited for a disk
        (0.0, 0.1, 1),  # never none
        (60.0, 4.0, 4),  # never more than were asked for
    ],
)
def test_threads_are_the_processors_that_were_idle_or_ours(idle: float, own: float, threads: int) -> None:
    assert free(Seen(5.0, 100.0, 10.0), Seen(7.0, 100.0 + 2 * idle, 10.0 + 2 * own), asked=4) == threads


def a_round(folder: Path) -> None:
    stages = Stages(folder, lambda params: params["compute"].update(dtype="bf16", threads=0))
    stages.run("init")
    stages.round("r001")


def reward_model(folder: Path) -> None:
    project = RewardProject(folder, epochs=2)
    params = YAML(typ="safe").load(folder / "params.yaml")
    params["compute"].update(dtype="bf16", threads=0)
    YAML().dump(params, folder / "params.yaml")
    project.run()


def sft(folder: Path) -> None:
    compute = YAML(typ="safe").load(REPOSITORY / "params.yaml")["compute"]
    sft_project(folder, more={"compute": {**compute, "device": "cpu", "dtype": "bf16"}}).run("sft", "chat")


@pytest.mark.parametrize("work", [a_round, sft, pytest.param(reward_model, marks=pytest.mark.rare)])
def test_no_bit_depends_on_when_threads_step_down(
    work: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name, chosen in (("always two", [2]), ("to and fro", [1, 2, 2, 1, 2])):
        folder, looks, numbers = tmp_path / name, [], itertools.cycle(chosen)

        def choose(*_: Any, looks: list[int] = looks, numbers: Iterator[int] = numbers, **__: Any) -> int:
            looks.append(torch.get_num_threads())
            return next(numbers)

        monkeypatch.setattr(crowd, "WINDOW", 0.0)
        monkeypatch.setattr(crowd, "free", choose)
        folder.mkdir()
        work(folder)
        assert len(looks) > 50 and set(looks) >= set(chosen)
        assert torch.get_num_threads() == 2
        made = ("data/rounds", "data/reward_model", "data/sft")
        files = sorted(path for top in made for path in (folder / top).rglob("*") if path.is_file())
        found.append({str(path.relative_to(folder)): sha256_of(path) for path in files})
    assert len(found[0]) > 3
    assert found[0] == found[1]


def test_a_number_in_the_settings_is_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "WINDOW", 0.0)
    monkeypatch.setattr(crowd, "free", lambda *_: 1)
    for fixed, threads in ((0, 1), (2, 2)):
        set_up(Compute(device="cpu", dtype="fp32", head="auto", threads=fixed, kernels="auto", batch_invariant=False))
        with crowd.sharing():
            crowd.look()
            assert torch.get_num_threads() == threads
        assert torch.get_num_threads() == 2
