"""The machine as `compute` says: device, dtype, threads, kernels."""

from typing import NamedTuple

import torch

from ..settings.sections import Compute
from . import crowd, head
from .device import device_and_format
from .native import library


class Machine(NamedTuple):
    """What a stage with a model runs on."""

    device: torch.device
    dtype: torch.dtype

    def told(self) -> dict[str, str]:
        """Return what the stage's record says of it."""
        return {"device": str(self.device), "dtype": str(self.dtype).removeprefix("torch.")}

    def decides(self) -> tuple[object, ...]:
        """Return what of it decides how numbers are rounded: threads, instructions, kernels and the GPU as well."""
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
        threads, instructions = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
        return (*self, threads, instructions, library.identity(), gpu)


def set_up(compute: Compute) -> Machine:
    """Fix threads, kernels and the head's dtype for this process; return the device and the dtype to use.

    Threads that no setting fixes step down where others want the processors (compute/crowd.py).

    Raises PipelineError for a device that is not there.
    """
    if compute.threads:
        torch.set_num_threads(compute.threads)
    device, dtype = device_and_format(compute.device, compute.dtype, "compute")
    library.allow(compute.kernels == "auto" and device.type == "cpu")
    head.choose(compute.head == "fp32")
    crowd.begin(steps_down=not compute.threads and device.type == "cpu", dtype=dtype)
    return Machine(device, dtype)
