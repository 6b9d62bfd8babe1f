"""A device that is none of this machine's: its numbers lie in CPU tensors, and it refuses what the real one would.

A tensor there says that its device is `meta`, the one device beside the CPU for which torch has autograd in every
build; unlike torch's own meta tensors it holds numbers. A dispatch mode sees each operation before torch runs it, runs
it on the numbers, and refuses what Apple's GPU or CUDA refuses: operands on two devices; with `like="mps"` also double
precision and operations for which torch's own table, native_functions.yaml, has no MPS kernel. It counts what makes
the host wait for the device. The code under test takes the path that it takes on a GPU, since the type is not `cpu`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torchgen
import yaml
from torch.utils import _pytree as tree
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

DEVICE = torch.device("meta")
TO_HOST = "copy to the host"
NO_FLOAT64 = "the MPS framework does not support float64"
# Their result's size is known only when the device has finished.
WAITING = {"nonzero", "masked_select", "unique_dim", "_unique2", "_local_scalar_dense", "equal", "repeat_interleave"}
MOVES = {"_to_copy", "copy_", "copy"}
WIDE = {torch.float64, torch.complex128}


class There(torch.Tensor):
    """A tensor of the other device; `inner` has its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "There":
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=DEVICE,
        )  # fmt: skip
        made.inner = inner
        return made

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @property
    def data(self) -> torch.Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, new: torch.Tensor) -> None:
        torch.Tensor.data.__set__(self, new)  # type: ignore[attr-defined]
        self.inner = new.inner  # type: ignore[attr-defined]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} on the other device, outside of its mode")


class OtherDevice(TorchDispatchMode):
    """Within it, tensors can be put on DEVICE. like: `mps` or `cuda`. waits: what the host waited for, in order."""

    def __init__(self, like: str) -> None:
        super().__init__()
        self.like = like
        self.waits: list[str] = []
        self.operations: set[str] = set()

    @contextmanager
    def on(self) -> "Iterator[OtherDevice]":
        """Be in force; `torch.tensor(numbers, device=...)` would make a true meta tensor before any mode sees it."""
        plain, future = torch.tensor, torch.__future__

        def tensor(*args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
            made = plain(*args, **kwargs)
            return made if device is None else made.to(device)

        before = future.get_swap_module_params_on_conversion()
        future.set_swap_module_params_on_conversion(True)  # else `to` makes two of tied weights, as of no real device
        try:
            with self, patch.object(torch, "tensor", tensor):
                yield self
        finally:
            future.set_swap_module_params_on_conversion(before)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        theirs = [x for x in tensors if isinstance(x, There)]
        asked = kwargs.get("device")
        lands_there = bool(theirs) if asked is None else torch.device(asked) == DEVICE
        if not theirs and not lands_there:
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if name == "to":  # in inference mode; torch takes it apart into itself
            return self._to(types, args, kwargs)
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:  # likewise
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        self._check(func, name, tensors, theirs, kwargs.get("dtype"))
        if asked is not None:
            kwargs["device"] = torch.device("cpu")
        if name == "_fused_sdp_choice":
            return 0  # the plain way, of operations that every device has
        inner_args, inner_kwargs = tree.tree_map_only(There, lambda x: x.inner, (args, kwargs))
        out = func(*inner_args, **inner_kwargs)
        if name == "copy_" and theirs and not isinstance(args[0], There):
            self.waits.append(TO_HOST)
            return args[0]
        if name == "_to_copy" and theirs and not lands_there:
            self.waits.append(TO_HOST)
        if not lands_there:
            return out
        self._check_results(func, out)
        out = tree.tree_map_only(torch.Tensor, There, out)
        return return_and_correct_aliasing(func, args, kwargs, out) if theirs else out

    def _to(self, types: Any, args: Any, kwargs: Any) -> Any:
        x, copied = args[0], kwargs.get("copy", False)
        wanted = {name: kwargs[name] for name in ("dtype", "device") if kwargs.get(name) is not None}
        wanted |= {"dtype" if isinstance(a, torch.dtype) else "device": a for a in args[1:] if not isinstance(a, bool)}
        if not copied and all(getattr(x, name) == value for name, value in wanted.items()):
            return x
        return self.__torch_dispatch__(torch.ops.aten._to_copy.default, types, (x,), wanted)

    def _check(self, func: Any, name: str, tensors: list[Any], theirs: list[Any], dtype: Any) -> None:
        if name in WAITING and theirs:
            self.waits.append(name)
        if name in MOVES:
            return
        self.operations.add(func.name())
        here = [x for x in tensors if not isinstance(x, There)]
        # A number on the host goes along with a kernel's arguments; any other tensor would have to be copied.
        if theirs and any(x.ndim for x in here):
            raise RuntimeError(f"{func}: expected all tensors to be on the same device")
        if self.like == "mps":
            if dtype in WIDE or any(x.dtype in WIDE for x in theirs):
                raise TypeError(f"{func}: {NO_FLOAT64}")
            if not on_mps(func.name().removeprefix("aten::")):
                raise NotImplementedError(f"{func}: no kernel for MPS")

    def _check_results(self, func: Any, out: Any) -> None:
        if self.like == "mps" and any(x.dtype in WIDE for x in tree.tree_leaves(out) if isinstance(x, torch.Tensor)):
            raise TypeError(f"{func}: {NO_FLOAT64}")


@cache
def table() -> dict[str, Any]:
    """Return torch's own table of operations by name."""
    path = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return {entry["func"].split("(")[0]: entry for entry in yaml.load(path.read_text(), loader)}


def on_mps(name: str) -> bool:
    """Tell whether an operation has a kernel for MPS, or is made of operations for any device."""
    entry = table()[name]
    if "structured_delegate" in entry:
        return on_mps(entry["structured_delegate"])
    kinds = {kind.strip() for kinds in entry.get("dispatch", {}) for kind in kinds.split(",")}
    composite = any(kind.startswith("Composite") for kind in kinds)
    return not kinds or composite or "MPS" in kinds
