"""The machine as `compute` says: device, number format, threads, kernels."""

import torch

from ..settings.sections import Compute
from .device import device_and_format
from .native import library


def set_up(compute: Compute) -> tuple[torch.device, torch.dtype]:
    """Fix threads, kernels and determinism for this process; return the device and the number format to use.

    Raises PipelineError for a device that is not there.
    """
    if compute.threads:
        torch.set_num_threads(compute.threads)
    device, dtype = device_and_format(compute.device, compute.dtype, "compute")
    library.allow(compute.kernels == "auto" and device.type == "cpu")
    return device, dtype


def machine_numbers() -> list[object]:
    """Return what else of the machine decides how its numbers are rounded: threads, instructions, kernels, the GPU."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return [torch.get_num_threads(), torch.backends.cpu.get_cpu_capability(), library.identity(), gpu]
