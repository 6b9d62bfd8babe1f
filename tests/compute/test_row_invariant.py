"""Rows of a product with the same bits among any other rows, on a processor whose sums depend on their number."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import lora_policy, tiny_model
from models.test_native_layers import KINDS, model_of
from models.test_packed import CPU, data, in_bf16, scores_and_gradients
from torch import Tensor, nn
from updating import make_policy

from ppo_pipeline.compute import onednn
from ppo_pipeline.compute.native import library, row_invariant
from ppo_pipeline.compute.native.row_invariant import LIMIT, Alike, RowInvariantLinear, by_rows, numbers_alike, parts
from ppo_pipeline.models.acceleration import accelerate_policy
from ppo_pipeline.models.policy import Policy, Scores
from ppo_pipeline.models.prepacked import can_prepack, prepack_policy
from ppo_pipeline.training.data import Sampled


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what other tests and this machine have tried."""
    monkeypatch.setattr(row_invariant, "_tried", {})
    monkeypatch.setattr(row_invariant, "_file", lambda: None)


def by_number(weight: Tensor, good: Callable[[int], bool]) -> Callable[[Tensor], Tensor]:
    """Return a product that adds in another order where the number of rows is not `good`, as AMX's do."""

    def product(x: Tensor) -> Tensor:
        y = (x.double() @ weight.double().T).to(x.dtype)
        return y if good(len(x)) else y + y.abs() * 2**-7 + 2**-20

    return product


GOOD = [
    lambda n: n % 128 == 0,
    lambda n: 48 <= n <= 513,  # measured on AMX for weights 576 x 576
    lambda n: not 4 <= n <= 32,  # and for 1536 x 576
    lambda n: n >= 4,  # what fp32 has everywhere
    lambda n: n == 256,
    lambda n: True,
]


@pytest.mark.parametrize("good", GOOD)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_every_number_of_rows_gives_the_same_bits(good: Callable[[int], bool], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(9000, 24).to(dtype), torch.randn(16, 24).to(dtype)
    product = by_number(weight, good)
    expected = (x.double() @ weight.double().T).to(dtype)
    for count in (1, 2, 3, 5, 16, 31, 47, 64, 100, 256, 257, 514, 1000, 4096, 4097, 9000):
        assert torch.equal(by_rows(("played", good), product, x[:count]), expected[:count])
        assert torch.equal(by_rows(("played", good), product, x[7 : 7 + count]), expected[7 : 7 + count])


def test_nothing_is_cut_where_every_number_gives_the_same() -> None:
    calls: list[int] = []

    def product(x: Tensor) -> Tensor:
        calls.append(len(x))
        return (x * 2).sum(1, keepdim=True).to(torch.float32).round()

    x = torch.ones(700, 4)
    assert numbers_alike(("whole",), product, x).least == 1
    calls.clear()
    by_rows(("whole",), product, x)
    assert calls == [700]


def test_what_was_tried_is_kept_for_other_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    monkeypatch.setattr(row_invariant, "_file", lambda: file)
    product, x = by_number(torch.ones(3, 4), lambda n: n >= 4), torch.ones(1, 4)

    def never(*_: Tensor) -> Tensor:
        raise AssertionError("it is known")

    found = numbers_alike(("kept",), product, x)
    row_invariant._tried.clear()  # another process
    assert numbers_alike(("kept",), never, x) == found
    for damaged in ("", "[1]", '{"a": 3}', '{"a": [1, ["x"]]}'):
        row_invariant._tried.clear()
        file.write_text(damaged)
        assert numbers_alike(("kept",), product, x) == found
    row_invariant._tried.clear()
    assert numbers_alike(("kept",), never, x) == found


def test_another_processor_version_or_choice_is_tried_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names = [row_invariant._file()]
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    names.append(row_invariant._file())
    monkeypatch.setattr(torch, "__version__", "0")
    names.append(row_invariant._file())
    monkeypatch.setattr(library, "processor", lambda: b"another")
    names.append(row_invariant._file())
    assert len(set(names)) == 4 and None not in names


def test_rows_of_several_tensors_belong_together() -> None:
    a, b = torch.randn(300, 3), torch.randn(300, 5)
    product = by_number(torch.ones(1, 8), lambda n: n == 256)
    both = lambda x, y: product(torch.cat([x, y], 1))  # noqa: E731
    expected = torch.cat([a, b], 1).double().sum(1, keepdim=True).float()
    assert torch.equal(by_rows(("both",), both, a, b), expected)


def test_only_products_of_few_rows_are_filled_up_where_only_these_differ() -> None:
    calls: list[int] = []
    product = by_number(torch.ones(3, 4), lambda n: n >= 4)

    def counted(x: Tensor) -> Tensor:
        calls.append(len(x))
        return product(x)

    found = numbers_alike(("few",), counted, torch.ones(1, 4))
    assert found.least == 4
    calls.clear()
    for count in (1, 3, 4, 5, 700, 4097):
        by_rows(("few",), counted, torch.ones(count, 4))
    assert calls == [16, 16, 4, 5, 700, 4096, 16]


@pytest.mark.parametrize(
    ("count", "sizes", "expected"),
    [
        (256, (128, 256), [(0, 256, 256)]),
        (200, (128, 256), [(0, 200, 256)]),  # 56 rows of filling: within a quarter
        (140, (128, 256), [(0, 128, 128), (128, 140, 128)]),
        (700, (64, 128, 256, 512), [(0, 512, 512), (512, 640, 128), (640, 700, 64)]),
        (1, (16,), [(0, 1, 16)]),
        (40, (16,), [(0, 16, 16), (16, 32, 16), (32, 40, 16)]),
    ],
)
def test_parts_by_hand(count: int, sizes: tuple[int, ...], expected: list[tuple[int, int, int]]) -> None:
    assert list(parts(count, sizes)) == expected


def test_nan_and_infinities_are_numbers_like_others() -> None:
    weight = torch.tensor([[1.0, torch.inf], [torch.nan, 0.0]])
    assert numbers_alike(("nan",), lambda x: (x[:, None] * weight).sum(-1), torch.ones(2, 2)).least == 1


@pytest.fixture
def numbers_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Play a processor on which the bits of every product depend on the number of rows, but for 64 and 256."""
    monkeypatch.setattr(row_invariant, "numbers_alike", lambda *_, **__: Alike(LIMIT + 1, (64, 256)))


@pytest.mark.usefixtures("either_kernels", "numbers_matter")
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_scores_and_gradients_in_parts_are_those_of_whole_products(architecture: str, tuning: str) -> None:
    plain, cut = (make_policy(architecture, tuning=tuning) for _ in range(2))
    accelerate_policy(cut)
    expected, found = (scores_and_gradients(policy, data(12, 12, longest=60)) for policy in (plain, cut))
    for one, other in zip(expected[0], found[0], strict=True):
        torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-4)
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, atol=5e-4, rtol=5e-3, msg=name)


def policy_of(architecture: str, tuning: str, dtype: torch.dtype) -> Policy:
    policy = make_policy(architecture, tuning=tuning)
    policy.model.to(dtype)
    if tuning == "lora":
        for parameter in policy.policy_parameters().values():
            parameter.data = parameter.data.float()
    return policy


@pytest.mark.usefixtures("either_kernels")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("prefix", [0, 13])
def test_a_sequence_scores_the_same_bits_in_every_batch(
    architecture: str, prefix: int, tuning: str, dtype: torch.dtype
) -> None:
    """On this processor, whatever it is; the first ratio of an update is then 1, however its minibatches are cut."""
    policy, samples = policy_of(architecture, tuning, dtype), data(13, prefix, count=12, longest=60)
    accelerate_policy(policy)
    scores = batched_scores(policy, samples)
    for name in ("logprobs", "entropy", "values", "bootstrap"):
        together = getattr(scores[12][0], name)
        assert all(torch.equal(torch.cat([getattr(s, name) for s in scores[size]]), together) for size in (1, 4))


@torch.no_grad()
def batched_scores(policy: Policy, samples: Sampled) -> dict[int, list[Scores]]:
    """Return the scores of 12 samples in batches of 1, 4 and 12."""
    return {
        size: [policy.score(samples.sequences(np.arange(i, i + size), 0, CPU), 1.0) for i in range(0, 12, size)]
        for size in (1, 4, 12)
    }


@pytest.mark.usefixtures("either_kernels")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_so_it_does_where_kernels_attend(kind: str, dtype: torch.dtype) -> None:
    policy, samples = lora_policy(model_of(kind).to(dtype), "all-linear"), data(13, 13, count=12, longest=60)
    accelerate_policy(policy)
    scores = batched_scores(policy, samples)
    assert torch.equal(torch.cat([s.logprobs for s in scores[1]]), scores[12][0].logprobs)


def test_layers_stay_what_they_are() -> None:
    """Names, weights and a copy of a model do not change by it; the head is left alone."""
    model = tiny_model("llama")
    before, head = copy.deepcopy(model.state_dict()), model.get_output_embeddings()
    row_invariant.make_row_invariant(model, but=head)
    assert list(model.state_dict()) == list(before)
    assert "forward" not in head.__dict__
    assert sum(isinstance(m.__dict__.get("forward"), RowInvariantLinear) for m in model.modules()) == 14
    assert isinstance(next(m for m in model.modules() if isinstance(m, nn.Linear)), nn.Linear)


def test_bf16_on_a_processor_without_packed_kernels_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """AVX2 has torch's functions but not the instructions: they raise RuntimeError."""

    def refuse(*_: object) -> Tensor:
        raise RuntimeError("bf16 path needs the cpu support avx_ne_convert or avx512bw, avx512vl and avx512dq")

    onednn.serves.cache_clear()
    monkeypatch.setattr(onednn, "product", refuse)
    policy = in_bf16("llama")
    assert not can_prepack(policy.model)
    prepack_policy(policy)
    onednn.serves.cache_clear()
