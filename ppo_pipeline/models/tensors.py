"""Read safetensors files, with clear errors."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import PipelineError


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, with a clear error for one that is absent or damaged."""
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file; `dvc repro` or `dvc pull` brings it.") from None
    except (SafetensorError, OSError) as error:
        raise PipelineError(f"{path}: damaged ({error}); delete it and rerun.") from None
    return tensors
