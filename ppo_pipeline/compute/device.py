"""Device and dtype of a model, and what makes torch repeatable there."""

import ctypes
import os
import sys

import torch

from ..errors import PipelineError
from .device_trial import attends_rightly

WITHOUT_FLOAT64 = {"mps"}


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
