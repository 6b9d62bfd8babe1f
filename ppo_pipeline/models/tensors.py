"""Safetensors files with a checksum of what is in them, read with clear errors.

The format has no checksum of its own: a changed bit would be another weight, and no reader could tell.
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import PipelineError
from ..errors.machine_faults import is_machines

CHECKSUM = "sha256"
NOT_YET = "0" * 64  # no reader takes a file with it


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write CPU tensors to `path`, with their checksum in the file's `__metadata__`.

    The file gets the permissions of any new file; `save_file` alone would let nobody but this user read it. They are
    hashed while they are written: for the moments of a whole model each takes seconds.
    """
    path.touch()
    mode = path.stat().st_mode
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(checksum, tensors)
        save_file(tensors, path, metadata={"format": "pt", CHECKSUM: NOT_YET})
    _set_checksum(path, found.result())
    path.chmod(mode)


def _set_checksum(path: Path, found: str) -> None:
    """Put the checksum into the file's header, and sort `__metadata__`: safetensors writes it in a random order, other
    bytes each time."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted({**header["__metadata__"], CHECKSUM: found}.items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= size, f"{path}: the header grew"
        file.seek(8)
        file.write(text.ljust(size))  # the format fills up with spaces


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; PipelineError for one that is absent, damaged, or differs from its checksum.

    A file without a checksum, as PEFT writes it, is read all the same.
    """
    try:
        with safe_open(path, framework="pt") as file:
            expected = (file.metadata() or {}).get(CHECKSUM)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no dict
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file; `dvc repro` or `dvc pull` brings it.") from None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        if is_machines(error):
            raise
        raise PipelineError(f"{path}: damaged ({error}); delete it and rerun.") from None
    if expected is not None and expected != checksum(tensors):
        raise PipelineError(f"{path}: damaged (its tensors are not those of its checksum); delete it and rerun.")
    return tensors


def checksum(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of the tensors' names, formats, shapes and bytes, sorted by name, as hex digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
