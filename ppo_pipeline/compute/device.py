"""Device and dtype of a model, and what makes torch repeatable there."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

import torch
from torch import Tensor

from ..errors import PipelineError
from .device_trial import attends_rightly

WITHOUT_FLOAT64 = {"mps"}
FROM_ATTENTION = 6  # steps of the graph: views of its result


def device_and_format(device: str, dtype: str, setting: str) -> tuple[torch.device, torch.dtype]:
    """Fix determinism for this process; return the device and the dtype to use.

    setting: where in params.yaml the device stands. Raises PipelineError for a device that is not there.
    """
    _keep_memory()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is repeatable only with this
    # use_deterministic_algorithms(True, warn_only=True) does the same, but imports torch's compiler: a second a stage
    torch.set_deterministic_debug_mode("warn")
    torch.backends.cuda.enable_cudnn_sdp(False)  # its backward pass adds in an order of its own each time
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time, and nothing here reads such memory
    found = torch.device(_device(device, setting))
    return found, _dtype(dtype, found)


@contextmanager
def determinism(mode: Literal["default", "warn", "error"]) -> Iterator[None]:
    """Have torch's kernels run in another mode of `torch.set_deterministic_debug_mode`.

    error: they add in one order each time, and RuntimeError is raised where one cannot. warn, which `device_and_format`
    sets: the same, but for attention's gradients on GPUs, which are added up as they come. default: the fastest.
    """
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(mode)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


def gradients_in_one_order(out: Tensor) -> Tensor:
    """Return what torch's attention gave, whose backward pass then adds in one order; on a CPU it does anyway."""
    node = None if out.device.type == "cpu" else out.grad_fn
    for _ in range(FROM_ATTENTION):
        if node is not None and "Attention" not in node.name():
            node = node.next_functions[0][0] if node.next_functions else None
    if node is not None and "Attention" in node.name():
        stack = ExitStack()
        node.register_prehook(lambda _: stack.enter_context(determinism("error")))
        node.register_hook(lambda *_: stack.close())
    return out


def _keep_memory() -> None:
    """Tell glibc's allocator to keep large blocks: giving each tensor's pages back costs a fifth of a CPU update."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # not in musl
        trim_threshold, mmap_threshold = -1, -3
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)


def _device(name: str, setting: str) -> str:
    apple = torch.backends.mps.is_available()
    sound = apple and (name not in ("auto", "mps") or attends_rightly(torch.device("mps")))
    available = {"cuda": torch.cuda.is_available(), "mps": sound, "cpu": True}
    if name == "auto":
        return next(n for n, there in available.items() if there)
    if name == "mps" and apple and not sound:
        raise PipelineError(
            f"params.yaml: {setting}.device: torch {torch.__version__} attends wrongly on this machine's GPU, so that "
            "every number would be wrong; install a newer torch, or set cpu (auto does)."
        )
    if not available[name]:
        there = ", ".join(n for n, ok in available.items() if ok)
        raise PipelineError(f"params.yaml: {setting}.device: '{name}' is not available here; this machine has {there}.")
    return name


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if has_fast_bf16(device) else torch.float32
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[name]


def has_float64(device: torch.device) -> bool:
    """Tell whether the device computes in double precision; Apple's GPU (MPS) does not."""
    return device.type not in WITHOUT_FLOAT64


def has_fast_bf16(device: torch.device) -> bool:
    """Tell whether the device multiplies bf16 matrices in hardware (CPU: AMX or AVX512-BF16)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
    return False
