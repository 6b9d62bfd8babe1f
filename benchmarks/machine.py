"""What this machine can do: matrix products and memory reads, the limits that the figures are held against."""

import json
import os
import platform
import time
from pathlib import Path

import torch

from ppo_pipeline.compute.device import has_fast_bf16


def fast_dtype() -> str:
    """Return what `compute.dtype: auto` takes here, bfloat16 where it is computed in hardware: peers take it too."""
    return "bfloat16" if has_fast_bf16(torch.device("cuda" if torch.cuda.is_available() else "cpu")) else "float32"


def best(function: object, repeats: int = 5) -> float:
    """Return the seconds of the fastest of some calls."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()  # type: ignore[operator]
        times.append(time.perf_counter() - started)
    return min(times)


def matrix_tflops(dtype: torch.dtype, size: int = 2048) -> float:
    """Return TFLOP/s of a square matrix product."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    return 2 * size**3 / best(lambda: a @ b) / 1e12


def read_gb() -> float:
    """Return GB/s of reading memory that is in no cache."""
    data = torch.ones(1 << 28)
    return data.numel() * 4 / best(lambda: data.sum()) / 1e9


def cpu_name() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def limits() -> dict[str, object]:
    """Return the machine and its measured limits."""
    return {
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "bf16_tflops": round(matrix_tflops(torch.bfloat16), 3),
        "fp32_tflops": round(matrix_tflops(torch.float32), 3),
        "read_gb_per_s": round(read_gb(), 1),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    print(json.dumps(limits()))
