"""Products that give a row the same bits whatever rows are beside it, and however many.

A CPU's kernels choose the order of their sums by the number of rows: with AMX nearly every bf16 product does, elsewhere
those of a few rows. The first product of each shape tries which numbers of rows give a row the same bits. Where all
above some number do, such products run as they come; others are cut into parts of sizes that do, the last one filled
up. What was found is kept for further processes on the machine. (Kernels with fixed sizes of parts: He et al. 2025,
"Defeating Nondeterminism in LLM Inference".)
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...storage.files import write_json
from .. import crowd
from . import library

LIMIT = 4096  # rows of the largest product that is tried; larger ones are cut
STANDARD = 256  # the sizes of parts are those that agree with this one
SIZES = (16, 32, 64, 128, STANDARD, 512, 1024, 2048, LIMIT)
OTHERS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 17, 33, 48, 100, 200, 300, 513, 700, 1000)
COMPARED = 100_000  # numbers of a trial: another order of sums changes one bf16 number in thousands
SHIFT = 7  # rows are tried at other places within a product than where the standard one has them

Product = Callable[..., Tensor]


class Alike(NamedTuple):
    """Numbers of rows that give a row the same bits: all from `least` up to the largest one tried, and `sizes`."""

    least: int
    sizes: tuple[int, ...]


_tried: dict[str, Alike] = {}


def by_rows(key: tuple[object, ...], product: Product, *rows: Tensor, most: int = LIMIT) -> Tensor:
    """Return product(*rows) with row-invariant bits; on other devices than CPUs just the product.

    rows: tensors (n, ...) of 2 dimensions whose rows belong together; row i of the product depends on row i of each.
    key: what tells this product's kind and shapes from others. most: the largest number of rows that is tried.
    """
    count = len(rows[0])
    if rows[0].device.type != "cpu" or not count:
        return product(*rows)
    alike = numbers_alike(key, product, *rows, most=most)
    if alike.least <= count <= most:
        return product(*rows)
    out = None
    for start, end, size in parts(count, alike.sizes):
        made = product(*(_filled_up(x[start:end], size) for x in rows))
        if out is None:
            out = made[:count] if end == count else made.new_empty(count, made.shape[1])
        if start or end < count:
            out[start:end] = made[: end - start]
    assert out is not None
    return out


def parts(count: int, sizes: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """Yield start, end and size of the parts of `count` rows; only the last one is shorter than its size.

    A part is filled up by a quarter of its size at most, but for the smallest size.
    """
    start = 0
    while start < count:
        rest = count - start
        above = min((s for s in sizes if s >= rest), default=None)
        below = max((s for s in sizes if s <= rest), default=None)
        size = above if above and (below is None or above - rest <= above // 4) else below
        assert size is not None
        yield start, min(start + size, count), size
        start += size


def _filled_up(x: Tensor, size: int) -> Tensor:
    if len(x) == size:
        return x
    out = x.new_zeros(size, x.shape[1])
    out[: len(x)] = x
    return out


def numbers_alike(key: tuple[object, ...], product: Product, *rows: Tensor, most: int = LIMIT) -> Alike:
    """Return which numbers of rows, up to `most`, give a row the same bits; tried once on a machine for each key."""
    name = repr((key, crowd.asked(), most, *((x.shape[1], x.dtype) for x in rows)))
    if name not in _tried:
        file = _file()
        _tried.update(_read(file))
        if name not in _tried:
            with torch.no_grad():
                _tried[name] = _try(product, [(x.shape[1], x.dtype) for x in rows], most)
            _write(file)
    return _tried[name]


def _file() -> Path | None:
    """Return where this machine keeps what was tried: a name for all that torch's choice of kernels depends on."""
    try:
        chosen = sorted(f"{k}={v}" for k, v in os.environ.items() if k.startswith(("ONEDNN", "DNNL", "MKL", "ATEN")))
        what = (torch.__version__, torch.__config__.show(), library.processor(), os.cpu_count(), chosen, SIZES, OTHERS)
        return library.cache_folder() / f"rows-{hashlib.sha256(repr(what).encode()).hexdigest()[:24]}.json"
    except (OSError, AttributeError):  # no home folder, another system
        return None


def _read(file: Path | None) -> dict[str, Alike]:
    try:
        kept = json.loads(file.read_text(encoding="utf-8")) if file else {}
        return {name: Alike(int(least), tuple(map(int, sizes))) for name, (least, sizes) in kept.items()}
    except (OSError, ValueError, TypeError, AttributeError):  # absent or damaged: tried again
        return {}


def _write(file: Path | None) -> None:
    with suppress(OSError):  # a full disk: the next process tries again
        if file is not None:
            write_json(file, {**_read(file), **_tried})


def _try(product: Product, kinds: list[tuple[int, torch.dtype]], most: int) -> Alike:
    generator, count, standard = torch.Generator().manual_seed(0), most + SHIFT, min(STANDARD, most)
    rows = [torch.randn(count, width, generator=generator).to(dtype) for width, dtype in kinds]
    starts = [*range(0, count - standard, standard), count - standard]
    expected = None
    for start in starts:
        made = _bits(product(*(x[start : start + standard] for x in rows)))
        expected = made.new_empty(count, made.shape[1]) if expected is None else expected
        expected[start : start + standard] = made
    assert expected is not None

    def agrees(size: int) -> bool:
        compared = 0
        for start in range(SHIFT, count - size + 1, size):
            found = _bits(product(*(x[start : start + size] for x in rows)))
            if not torch.equal(found, expected[start : start + size]):
                return False
            compared += found.numel()
            if compared >= COMPARED:
                break
        return True

    possible = {size for size in (*SIZES, most) if size <= most}
    sizes = {size for size in possible if agrees(size)}
    least = most + 1
    for size in sorted(possible | {size for size in OTHERS if size < most}, reverse=True):
        if size not in sizes and (size in possible or not agrees(size)):
            break
        least = size
    return Alike(least, tuple(sorted({standard, *sizes})))


def _bits(x: Tensor) -> Tensor:
    """Return the numbers as integers: NaN is then equal to itself, and 0 not to -0."""
    return x.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


def is_conv1d(module: nn.Module) -> bool:
    """Tell transformers' Conv1D (GPT-2), a linear layer whose weight is stored as (in, out)."""
    return type(module).__name__ == "Conv1D"


class RowInvariantLinear:
    """The forward of a linear or Conv1D layer whose every row has the same bits among any other rows."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.whole = module, module.forward
        self.key = ("conv1d" if is_conv1d(module) else "linear", tuple(module.weight.shape), module.bias is None)

    def __call__(self, x: Tensor) -> Tensor:
        """Return x W^T + b, (..., in) to (..., out)."""
        m, rows = self.module, x.flatten(0, -2)
        if x.device.type != "cpu" or numbers_alike(self.key, self._product, rows).least <= len(rows) <= LIMIT:
            return self.whole(x)  # type: ignore[no-any-return]
        return _Linear.apply(x, m.weight, m.bias, self)  # type: ignore[no-any-return]

    def _product(self, x: Tensor) -> Tensor:
        m: Any = self.module
        return torch.addmm(m.bias, x, m.weight) if is_conv1d(m) else nn.functional.linear(x, m.weight, m.bias)


def no_view(x: Tensor, *shape: int) -> Tensor:
    """Return a new, contiguous x, in another shape if one is given, that autograd takes for no view of anything.

    Nothing may change in place what a function of ours returns as a view; Falcon's rotary embedding and OLMo's
    clipping do.
    """
    shaped: Tensor = torch.ops.aten._unsafe_view(x, shape or x.shape)
    return shaped


class _Linear(torch.autograd.Function):
    """A linear map in parts, its gradient by whole products: the sum over parts would be rounded once a part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: RowInvariantLinear) -> Tensor:
        rows = x.flatten(0, -2)
        ctx.save_for_backward(rows, weight)
        ctx.turned = is_conv1d(layer.module)
        return no_view(by_rows(layer.key, layer._product, rows), *x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, weight = ctx.saved_tensors
        need_x, need_weight, need_bias, _ = ctx.needs_input_grad
        flat = grad.flatten(0, -2)
        by_x = (grad @ (weight.T if ctx.turned else weight)) if need_x else None
        by_weight = (rows.T @ flat if ctx.turned else flat.T @ rows) if need_weight else None
        return by_x, by_weight, flat.sum(0) if need_bias else None, None


def make_row_invariant(model: nn.Module, but: nn.Module | None = None) -> None:
    """Make a model's linear and Conv1D layers row-invariant, but for one: the head's product is token_logprobs'."""
    for module in model.modules():
        if (type(module) is nn.Linear or is_conv1d(module)) and module is not but:
            module.forward = RowInvariantLinear(module)  # type: ignore[method-assign]
