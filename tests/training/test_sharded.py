"""Full tuning spread over processes: the gradient, weights and files of one process, and the same bits each time."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_tiny, tiny_model
from rank_processes import on_ranks
from safetensors import safe_open
from sharded_runs import CASES, FROZEN, bits, finished, gradients, killed_within, not_finite, resumed, rounds
from torch import Tensor, nn
from updating import make_policy

from ppo_pipeline.errors import PipelineError
from ppo_pipeline.models.checkpoint import TrainerState, save_trainer
from ppo_pipeline.models.tensors import checksum
from ppo_pipeline.training import eight_bit
from ppo_pipeline.training.eight_bit import widened
from ppo_pipeline.training.optimizer import MOMENTS
from ppo_pipeline.training.ranks import Ranks
from ppo_pipeline.training.sharded import _blocks, _check, _Root, sum_in_order

TWICE = ("shared", "bf16", "8 bits")
BY_FOUR = ("shared", "separate")
ROUNDS = ("float32", "bfloat16")


@pytest.fixture(autouse=True)
def rows_of_any_length_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The case "8 bits" sets it in this process too."""
    monkeypatch.setattr(eight_bit, "SHORTEST", eight_bit.SHORTEST)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the beginning of two projects: a base and the trainer's state of r000."""
    folder = tmp_path_factory.mktemp("sharded")
    for dtype in ROUNDS:
        save_tiny(folder / dtype / "base")
        shutil.copytree(folder / dtype / "base", folder / dtype / "r000/policy")
        save_trainer(make_policy(tuning="full", critic="separate"), TrainerState(), folder / dtype / "r000/trainer")
    shutil.copytree(folder, folder / "alone")
    return folder


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[str, list[Any]]:
    """Return what two processes made, by rank, under a name for each call."""
    calls = {f"gradient of {case}": ["gradients", case, "ranks"] for case in (*CASES, *FROZEN)}
    calls |= {f"end of {case}": ["finished", case, "ranks"] for case in CASES}
    calls |= {f"bits of {case}": ["bits", case, "ranks"] for case in TWICE}
    calls["factor on the root alone"] = ["gradients", "shared", "ranks", True]
    calls |= {f"killed {case}": ["killed", case, "ranks", str(folder / f"steps {case}")] for case in TWICE}
    calls |= {f"resumed {case}": ["resumed", case, "ranks", str(folder / f"steps {case} again")] for case in TWICE}
    killed_within("shared", str(folder / "steps of one"))
    calls["resumed from one"] = ["resumed", "shared", "ranks", str(folder / "steps of one")]
    calls["not finite"] = ["not_finite", "ranks", str(folder / "kept")]
    calls |= {f"rounds in {dtype}": ["rounds", "ranks", str(folder / dtype), dtype] for dtype in ROUNDS}
    calls["moved"] = ["moved", "ranks"]
    return dict(zip(calls, on_ranks("sharded_runs", 2, folder / "by two", [*calls.values()]), strict=True))


def errors(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, float]:
    """Return the relative error of each tensor in the 2-norm."""
    assert {n: (t.shape, t.dtype) for n, t in found.items()} == {n: (t.shape, t.dtype) for n, t in wanted.items()}
    norms = {name: torch.linalg.vector_norm(tensor.float()).clamp(min=1e-12) for name, tensor in wanted.items()}
    return {n: float(torch.linalg.vector_norm(found[n].float() - wanted[n].float()) / norms[n]) for n in wanted}


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_one_process(case: str, runs: dict[str, list[Any]]) -> None:
    found, nothing = runs[f"gradient of {case}"]
    assert nothing == {}
    wanted = gradients(case, Ranks())
    assert all(grad.norm() > 0 for grad in wanted.values())
    assert max(errors(found, wanted).values()) < (0.02 if case == "bf16" else 1e-5)


@pytest.mark.parametrize("case", FROZEN)
def test_a_frozen_policy_s_critic_gets_the_gradient_of_one_process(case: str, runs: dict[str, list[Any]]) -> None:
    found, wanted = runs[f"gradient of {case}"][0], gradients(case, Ranks())
    assert all(name.startswith(("value_head.", "critic.")) for name in wanted)
    assert max(errors(found, wanted).values()) < 1e-5


def test_that_test_sees_blocks_whose_gradients_are_averaged(runs: dict[str, list[Any]]) -> None:
    """FSDP's divide factor reaches the unit alone that it is set on; Adam's steps would hide the rest."""
    found = errors(runs["factor on the root alone"][0], gradients("shared", Ranks()))
    assert {round(error, 3) for name, error in found.items() if ".layers." in name} == {0.5}
    assert max(error for name, error in found.items() if "embed" in name) < 1e-5


@pytest.mark.parametrize("case", BY_FOUR)
def test_four_processes_make_the_gradient_of_one(case: str, by_four: dict[str, Any]) -> None:
    assert max(errors(by_four[case][0], gradients(case, Ranks())).values()) < 1e-5


@pytest.fixture(scope="module")
def by_four(folder: Path) -> dict[str, Any]:
    calls = [["gradients", case, "ranks"] for case in BY_FOUR]
    return dict(zip(BY_FOUR, on_ranks("sharded_runs", 4, folder / "by four", calls), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_an_update_ends_as_in_one_process(case: str, runs: dict[str, list[Any]]) -> None:
    found, other = runs[f"end of {case}"]
    wanted = finished(case, Ranks())
    assert found["counts"] == wanted["counts"]
    assert (found["metrics"], found["counts"]) == (other["metrics"], other["counts"]), "ranks know the same"
    rough = case in ("bf16", "8 bits")  # a code may be its neighbour where a gradient is off by rounding
    assert found["metrics"] == pytest.approx(wanted["metrics"], rel=0.1 if rough else 1e-3, abs=0.1 if rough else 1e-4)
    weights = {n for n in wanted["tensors"] if not re.search(r"\.(exp_avg|exp_avg_sq|low)(_scale)?$", n)}
    far = errors(found["tensors"], wanted["tensors"])
    assert max(far[name] for name in weights) < (0.02 if rough else 1e-4)
    if not rough:
        assert max(far.values()) < 1e-3
    if case == "8 bits":
        ours, theirs = (in_fp32(each["tensors"]) for each in (found, wanted))
        assert max(errors(ours, theirs).values()) < 0.05
    assert wanted["counts"][1] == (case == "target kl") and wanted["counts"][0]
    assert (wanted["metrics"]["policy/grad_norm_max"] > 0.01) and len(weights) * 2 < len(far)


def in_fp32(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the moments that are in 8 bits, out of them."""
    names = {name.removesuffix(".exp_avg") for name, t in tensors.items() if t.dtype == torch.uint8}
    names = {name.removesuffix(".exp_avg_sq") for name in names}
    states = {n: {kind: tensors[f"{n}.{kind}"] for kind in MOMENTS if f"{n}.{kind}" in tensors} for n in names}
    return {f"{n}.{kind}": t for n, state in states.items() for kind, t in widened(state).items()}


@pytest.mark.parametrize("case", TWICE)
def test_the_same_number_of_processes_makes_the_same_bits(case: str, runs: dict[str, list[Any]]) -> None:
    assert runs[f"bits of {case}"][0] == checksum(runs[f"end of {case}"][0]["tensors"]) != bits(case, Ranks())


@pytest.mark.parametrize("case", TWICE)
def test_a_snapshot_goes_on_by_as_many_processes_or_by_one(case: str, runs: dict[str, list[Any]], folder: Path) -> None:
    wanted, by_two = runs[f"end of {case}"][0], runs[f"resumed {case}"]
    assert max(errors(by_two[0]["tensors"], wanted["tensors"]).values()) == 0
    assert by_two[0]["metrics"] == by_two[1]["metrics"] == wanted["metrics"]
    assert by_two[0]["done"] == [False, True, True], "the first epoch was in the snapshot"
    by_one = resumed(case, Ranks(), str(folder / f"steps {case}"))
    weights = {n for n in wanted["tensors"] if not re.search(r"\.(exp_avg|exp_avg_sq|low)(_scale)?$", n)}
    far = errors(by_one["tensors"], wanted["tensors"])
    assert 0 < max(far[name] for name in weights) < (1e-4 if case == "shared" else 0.02)


def test_two_processes_go_on_from_within_one_s_minibatch(runs: dict[str, list[Any]]) -> None:
    found, wanted = runs["resumed from one"][0], finished("shared", Ranks())
    assert found["done"] == [False, True, True, True], "the first minibatch was in the snapshot"
    assert found["metrics"] == pytest.approx(wanted["metrics"], rel=1e-3, abs=1e-4)
    assert max(errors(found["tensors"], wanted["tensors"]).values()) < 1e-3


def test_a_loss_that_is_not_finite_is_told_by_all(runs: dict[str, list[Any]], folder: Path, tmp_path: Path) -> None:
    one, other = runs["not finite"]
    alone = not_finite(Ranks(), str(tmp_path))
    shape = r"the loss of optimizer step (\d) is nan \(samples .*s4.*The state before that step is in"
    assert one == other and re.search(shape, one)
    assert re.search(shape, one)[1] == re.search(shape, alone)[1]  # type: ignore[index]
    assert [path.name for path in (folder / "kept").iterdir()] == ["000001"]


@pytest.mark.parametrize("dtype", ROUNDS)
def test_checkpoints_are_those_of_one_process(dtype: str, runs: dict[str, list[Any]], folder: Path) -> None:
    """Two rounds, so that moments have gone from files onto shards."""
    assert runs[f"rounds in {dtype}"]
    rounds(Ranks(), str(folder / "alone" / dtype), dtype)
    for name in ("r001", "r002"):
        found, wanted = folder / dtype / name, folder / "alone" / dtype / name
        files = sorted(path.relative_to(wanted) for path in wanted.rglob("*.*"))
        assert sorted(path.relative_to(found) for path in found.rglob("*.*")) == files
        for file in files:
            if file.suffix != ".safetensors":
                assert (found / file).read_bytes() == (wanted / file).read_bytes()
                continue
            ours, theirs = tensors_of(found / file), tensors_of(wanted / file)
            ours, theirs = ({n: t for n, t in x.items() if not n.endswith(".low")} for x in (ours, theirs))
            assert list(ours) == list(theirs)
            far = errors(ours, theirs)
            if dtype == "float32":
                assert max(far.values()) < 1e-3
            elif file.name != "optimizer.safetensors":  # in bf16 each gradient is off by half a percent
                torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0.02)


def tensors_of(path: Path) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no dict


def test_rows_are_shared_out_and_put_together(runs: dict[str, list[Any]]) -> None:
    (first, second), (third, fourth) = runs["moved"]
    assert [len(part) for part, _ in (first, second, third, fourth)] == [3, 1, 2, 0]
    assert [whole for _, whole in (first, second, third, fourth)] == [True, True, None, None]


@pytest.mark.parametrize("count", range(1, 9))
def test_the_order_of_the_sum(count: int) -> None:
    parts = [torch.tensor([2.0**i]) for i in range(count)]
    assert sum_in_order(parts).item() == 2**count - 1
    small = [torch.tensor(x) for x in (1e8, 1.0, -1e8, 1.0)]
    assert sum_in_order(small).item() == 0.0, "each 1 is lost beside its neighbour; one after the other it would be 1"


def block(model: Any) -> Any:
    return model.model.layers[0]


def shares_a_weight(model: Any) -> None:
    model.model.layers[1].mlp.up_proj.weight = block(model).mlp.up_proj.weight


def has_two_formats(model: Any) -> None:
    block(model).input_layernorm.to(torch.bfloat16)


def has_a_number(model: Any) -> None:
    block(model).scale = nn.Parameter(torch.tensor(1.0))


def is_of_unknown_blocks(model: Any) -> None:
    model.model.layers = nn.ModuleList(nn.Sequential(*layer.children()) for layer in model.model.layers)


def has_experts_apart(model: Any) -> None:
    block(model).experts = nn.ModuleList([nn.Linear(2, 2)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shares_a_weight, "LlamaDecoderLayer shares weights with another block"),
        (has_two_formats, "LlamaDecoderLayer has weights in bfloat16 and float32"),
        (has_a_number, "LlamaDecoderLayer has a weight 'scale' without rows"),
        (is_of_unknown_blocks, "does not mark the blocks of LlamaForCausalLM"),
        (has_experts_apart, "LlamaDecoderLayer has experts that are modules of their own"),
    ],
)
def test_what_cannot_be_shared_out_is_refused_by_name(change: Any, message: str) -> None:
    policy = make_policy(tuning="full")
    root = _Root(policy)
    _check([*_blocks(policy.model), root])
    change(policy.model)
    with pytest.raises(PipelineError, match=message) as caught:
        _check([*_blocks(policy.model), root])
    assert "compute.workers" in caught.value.message and "policy.tuning" in caught.value.message


def test_every_architecture_has_blocks_to_share_out(architecture: str) -> None:
    model = tiny_model(architecture)
    assert len(_blocks(model)) == 2
    _check([*_blocks(model), model])
