"""Gradient groups: one process or several, the same bits; and the same gradient as without groups."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from grouped_runs import CASES, GROUPS, build, finished, resumed
from rank_processes import on_ranks
from updating import parameters_of

from ppo_pipeline.training.groups import TreeSum, deal, fitting, tree_sum
from ppo_pipeline.training.ranks import Ranks

SIZES = (1, 2, 4)


def as_json(found: Any) -> Any:
    """Return it as JSON has it: a list for a tuple."""
    return json.loads(json.dumps(found))


STOP = 3  # minibatches of 4


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[list[Any]]]:
    """Return what each call gave on each rank, by the number of processes."""
    folder = tmp_path_factory.mktemp("ranks")
    calls: list[list[Any]] = [["finished", case, "ranks"] for case in CASES]
    calls += [["summed", "ranks", 1001], ["shared", "ranks"]]
    found = {}
    for size in SIZES:
        own = [["killed", "ranks", str(folder / "steps"), STOP]] if size == 2 else []
        found[size] = as_json(on_ranks("grouped_runs", size, folder / str(size), calls + own))
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES)
def test_any_number_of_processes_makes_the_same_bits(case: str, size: int, runs: dict[int, list[list[Any]]]) -> None:
    wanted = as_json(finished(case, Ranks()))
    for found in runs[size][list(CASES).index(case)]:
        assert found == wanted
    steps, skipped, stopped, *_ = wanted["counts"]
    assert steps and bool(skipped) == (case == "fp16") and stopped == (case == "target kl")
    assert wanted["metrics"]["policy/grad_norm_max"] > 0.01, "clipping does something"


@pytest.mark.parametrize("size", SIZES)
def test_ranks_add_in_a_tree_and_know_of_each_other(size: int, runs: dict[int, list[list[Any]]]) -> None:
    parts = []
    for rank in range(size):
        torch.manual_seed(rank)
        parts.append(torch.randn(1001) * 10.0 ** torch.randint(-4, 5, (1001,)))
    wanted = {1: lambda p: p[0], 2: lambda p: p[0] + p[1], 4: lambda p: (p[0] + p[1]) + (p[2] + p[3])}[size](parts)
    assert all(found == wanted.tolist() for found in runs[size][len(CASES)])
    if size == 4:
        assert not torch.equal(wanted, ((parts[0] + parts[1]) + parts[2]) + parts[3]), "the order shows"
    assert all(found == [[*range(size)], 0] for found in runs[size][len(CASES) + 1])


def test_a_snapshot_goes_on_with_any_number_of_processes(
    runs: dict[int, list[list[Any]]], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert [len(made) for made in runs[2][-1]] == [STOP, STOP]
    snapshots = next(tmp_path_factory.getbasetemp().glob("ranks*")) / "steps"
    wanted = as_json(finished("dropout", Ranks()))
    for size in (1, 4):
        folder = str(shutil.copytree(snapshots, tmp_path / f"steps-{size}"))
        found = [resumed(Ranks(), folder)] if size == 1 else []
        found += (
            as_json(on_ranks("grouped_runs", size, tmp_path / f"run-{size}", [["resumed", "ranks", folder]]))[0]
            if size > 1
            else []
        )
        for one in as_json(found):
            steps = one.pop("steps")
            assert [bool(tokens) for tokens in steps] == [False, True, True], "the first epoch was in the snapshot"
            assert one == wanted


def test_a_fault_of_one_rank_is_told_by_all(tmp_path: Path) -> None:
    calls = [["fault", "ranks", kind, str(tmp_path / kind)] for kind in ("not finite", "out of memory")]
    not_finite, no_memory = on_ranks("grouped_runs", 2, tmp_path / "run", calls)
    assert not_finite[0] == not_finite[1]
    assert "the loss of optimizer step 1 is nan" in not_finite[0]
    assert f"The state before that step is in {tmp_path}/not finite/000001." in not_finite[0]
    assert no_memory[0] == no_memory[1] and no_memory[0].startswith("out of memory")


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("case", ["plain", "separate critic", "empty groups", "values not learned", "weighted"])
def test_the_gradient_is_that_without_groups(case: str, tuning: str) -> None:
    gradients = []
    once: dict[str, Any] = {"epochs": 1, "minibatches": 1, "max_grad_norm": None, "microbatch_tokens": 10_000}
    for groups in (1, GROUPS):
        ppo, data, targets = build(case, tuning=tuning, gradient_groups=groups, **once)
        before = parameters_of(ppo.policy)
        ppo.run(data, targets, ("k",))
        gradients.append([parameter.grad for parameter in ppo.parameters])
        head = {n: p for n, p in parameters_of(ppo.policy).items() if n.startswith("value_head")}
        learned = case != "values not learned"
        assert all(torch.equal(p, before[n]) != learned for n, p in head.items()), "without a gradient, nothing decays"
    for plain, grouped in zip(*gradients, strict=True):
        assert (plain is None) == (grouped is None)
        if plain is not None:
            assert plain.abs().max() > 1e-4
            torch.testing.assert_close(grouped, plain, rtol=1e-5, atol=1e-5 * plain.abs().max().item())


def test_each_group_has_dropout_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    for key in ("k", "other"):
        ppo, data, targets = build("plain")
        with monkeypatch.context() as patched:
            patched.setattr("ppo_pipeline.training.grouped.torch.manual_seed", seeds.append)
            ppo.run(data, targets, (key,))
    own = 1 + 2 * GROUPS  # in an epoch: its own, and those of two minibatches' groups
    assert len(seeds) == len(set(seeds)) == 2 * 2 * own


def test_groups_are_even_and_each_sample_is_in_one() -> None:
    rng = np.random.default_rng(0)
    for count in (0, 1, 3, 8, 101):
        lengths = rng.integers(1, 200, count)
        parts = deal(lengths, 8)
        assert sorted(np.concatenate(parts)) == [*range(count)] and len(parts) == 8
        sums = [int(lengths[part].sum()) for part in parts]
        if count == 101:
            assert max(sums) - min(sums) <= 200
            halves = sum(sums[:4]), sum(sums[4:])  # of two workers
            assert abs(halves[0] - halves[1]) <= 200
    assert [part.tolist() for part in deal(np.array([5, 5, 9, 1]), 2)] == [[2, 3], [0, 1]]


def test_the_tree_holds_few_parts() -> None:
    torch.manual_seed(0)
    parts = [torch.randn(100) * 10.0 ** torch.randint(-4, 5, (100,)) for _ in range(8)]
    pairs = [parts[i] + parts[i + 1] for i in range(0, 8, 2)]
    wanted = (pairs[0] + pairs[1]) + (pairs[2] + pairs[3])
    assert torch.equal(tree_sum(parts), wanted)
    assert not torch.equal(torch.stack(parts).sum(0), wanted)
    tree, most = TreeSum(), 0
    for part in parts:
        tree.add(part)
        most = max(most, len(tree.held))
    assert most == 3  # and the part that is being added: log2(8) + 1


@pytest.mark.parametrize(
    ("workers", "groups", "ranks"), [(1, 1, 1), (2, 1, 1), (3, 4, 2), (4, 4, 4), (6, 8, 4), (64, 4, 4)]
)
def test_as_many_workers_have_a_part_as_share_the_groups_evenly(workers: int, groups: int, ranks: int) -> None:
    assert fitting(workers, groups) == ranks == max(n for n in range(1, workers + 1) if groups % n == 0)
