"""What a worker's node must have in common with the others, and refusal by name of one that has not.

Bits depend on code, on versions of libraries, and on the machine: device, dtype, threads, instructions, kernels, GPU.
"""

import hashlib
import os
import platform
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...compute.machine import Machine
from ...errors import PipelineError
from ...observe.run_record import PACKAGES, VLLM, version_of
from ...storage.code_fingerprint import PACKAGE, stages_folder

DECIDES = ("device", "dtype", "threads", "instructions", "kernels", "GPU")  # as Machine.decides has them


@dataclass(frozen=True)
class Identity:
    """What a process says of itself. sign: what it read of the driver's file, None where that is not there."""

    node: str
    sign: str | None
    code: str
    versions: dict[str, str | None]
    decides: tuple[str, ...] = ()
    pid: int = 0


@contextmanager
def sign_on_disk(folder: Path) -> Iterator[Path]:
    """Yield the absolute path of a file with a fresh number in it, which every node of the cluster must see."""
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / f"sign-{secrets.token_hex(8)}").absolute()
    file.write_text(secrets.token_hex(16), encoding="utf-8")
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)


def identity_here(sign: Path, machine: Machine | None = None) -> Identity:
    """Return this process's identity; machine: what it computes on."""
    try:
        read: str | None = sign.read_text(encoding="utf-8")
    except OSError:
        read = None
    versions = {"python": platform.python_version()} | {name: version_of(name) for name in (*PACKAGES, "ray", *VLLM)}
    decides = () if machine is None else tuple(str(thing) for thing in machine.decides())
    return Identity(f"{socket.gethostname()} ({_address()})", read, _code(), versions, decides, os.getpid())


def _address() -> str:
    import ray

    return str(ray.util.get_node_ip_address())


def _code() -> str:
    """Return a hash of the files of this package and its stages."""
    found = hashlib.sha256()
    for folder in (PACKAGE, stages_folder()):
        for path in sorted(p for p in folder.rglob("*") if p.suffix in (".py", ".c", ".h")):
            found.update(f"{path.relative_to(folder)}".encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def refuse_foreign(found: Identity, driver: Identity, first: Identity) -> None:
    """Raise PipelineError, with the node and the difference, for a worker whose bits may differ.

    driver: whose files, code and versions it must have. first: the worker whose machine it must have.
    """
    where = f"compute.engine: ray: the node {found.node}"
    if found.sign != driver.sign:
        raise PipelineError(
            f"{where} does not see {Path.cwd()} as this node does; the project's folder must lie on a shared file "
            "system, at one path on every node."
        )
    if found.code != driver.code:
        raise PipelineError(
            f"{where} has other code of ppo_pipeline than {driver.node}: its files differ; install the same."
        )
    for name, version in driver.versions.items():
        if found.versions.get(name) != version:
            raise PipelineError(
                f"{where} has {name} {found.versions.get(name)}, {driver.node} has {version}; install the same on both."
            )
    for what, own, other in zip(DECIDES, first.decides, found.decides, strict=True):
        if own != other:
            raise PipelineError(
                f"{where} computes other bits than {first.node}: {what} {other}, not {own}; let Ray have nodes of one "
                "kind alone, or set compute.device, dtype, threads and kernels to what both have."
            )


def told(first: Identity, ready_seconds: float, workers: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the record says of workers. first: one of them, whose machine they share; ready_seconds: until they
    were there."""
    machine = dict(zip(DECIDES, first.decides, strict=True)) | {"cpus": os.cpu_count()}
    ready = round(ready_seconds, 1)
    return {"engine": "ray", "ready_seconds": ready, "workers_machine": machine, "workers": workers}
