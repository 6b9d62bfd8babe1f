"""Products with weights laid out once: the numbers of a product in double precision, and when they are trusted."""

import platform
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from ppo_pipeline.compute import crowd, onednn


@pytest.fixture
def tried_anew() -> Iterator[None]:
    """What a trial found is forgotten before and after a test."""
    for trial in (onednn.serves, crowd.alike):
        trial.cache_clear()
    yield
    for trial in (onednn.serves, crowd.alike):
        trial.cache_clear()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("out", "inside"), [(48, 64), (8, 576), (101, 77), (1, 3), (1536, 576)])
def test_a_product_is_that_of_the_plain_weight(dtype: torch.dtype, out: int, inside: int) -> None:
    if not onednn.serves(dtype):
        pytest.skip("no such kernels on this machine")
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(out, inside, generator=generator).to(dtype)
    layout = onednn.reordered(weight)
    for shape in ((1,), (2,), (7,), (33,), (130,), (2, 5)):
        x = torch.randn(*shape, inside, generator=generator).to(dtype)
        found, expected = onednn.product(x, layout), x.double() @ weight.double().T
        assert found.dtype == dtype and found.shape == expected.shape
        # n eps bounds the error of a sum of n terms by their absolute sum (Higham 2002, section 3.1)
        bound = x.double().abs() @ weight.double().abs().T
        eps = torch.finfo(torch.float32).eps * inside + (torch.finfo(dtype).eps if dtype == torch.bfloat16 else 0.0)
        assert ((found.double() - expected).abs() <= eps * bound).all()


def raising(*_: Any) -> Tensor:
    raise RuntimeError("the CPU has no such instructions")


@pytest.mark.parametrize(
    "product", [raising, lambda x, weight: torch.zeros(32, 32), lambda x, weight: torch.full((32, 32), torch.nan)]
)
def test_kernels_that_fail_or_are_wrong_do_not_serve(
    product: Any, monkeypatch: pytest.MonkeyPatch, tried_anew: None
) -> None:
    monkeypatch.setattr(onednn, "product", product)
    assert not onednn.serves(torch.float32)
    assert not onednn.serves(torch.bfloat16)


def test_fp32_on_another_processor_takes_torch_s_product(monkeypatch: pytest.MonkeyPatch, tried_anew: None) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert not onednn.serves(torch.float32)


def test_threads_do_not_step_down_where_their_number_changes_such_a_product(
    monkeypatch: pytest.MonkeyPatch, tried_anew: None
) -> None:
    if not onednn.serves(torch.float32):
        pytest.skip("no such kernels on this machine")
    if not crowd.alike(2, torch.float32):
        pytest.skip("plain products on this machine depend on the threads already")
    crowd.alike.cache_clear()
    own = onednn.product
    monkeypatch.setattr(onednn, "product", lambda x, weight: own(x, weight) + 1e-3 * torch.get_num_threads())
    assert not crowd.alike(2, torch.float32)
