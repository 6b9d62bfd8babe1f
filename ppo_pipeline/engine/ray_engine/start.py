"""Ray for a stage: the cluster that runs here, or one of this machine alone that the stage starts and ends.

A Ray of one's own listens on the loopback address alone, asks for a token, has no dashboard and sends no usage
statistics: whoever reaches Ray's ports can run code. docs/security.md has more.
"""

import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import PipelineError

# Names without secrets: Ray writes them to its logs. What is started here inherits the whole environment anyway.
# DVC_STAGE: whether DVC runs the stage, which resume/scratch.py asks.
FORWARDED = (
    "PPO_PIPELINE_", "HF_HOME", "HF_HUB_", "TRANSFORMERS_", "TORCH_", "CUBLAS_", "NCCL_", "GLOO_", "MKL_",
    "XDG_CACHE_HOME", "CC", "DVC_STAGE", "VLLM_",
)  # fmt: skip
KEPT_BACK = ("VLLM_API_KEY",)
STORE_BYTES = 200 << 20  # what workers send is small: tokens and numbers
LONGEST_TEMP = 16  # characters: Ray's sockets lie deep below it, and a socket's path has 107 at most


def prepare() -> str | None:
    """Set the environment that Ray reads when it is imported, and so before that; return the cluster to join, if any.

    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER is Ray's switch for the loopback address; 0 is its default off Linux.
    RAY_worker_niceness: 15 unless it is set; a stage's work would have what all other processes leave.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = running_cluster()
    if address is None:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.setdefault("RAY_worker_niceness", "0")
        if sys.platform.startswith("linux"):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return address


@contextmanager
def connected(cpus: int) -> Iterator[Any]:
    """Yield `ray`, connected to RAY_ADDRESS or to the cluster that this node belongs to, else to one started here.

    cpus: what a Ray of one's own is to have at least. A Ray that this process is connected to is left as it is.
    Raises PipelineError where the cluster does not answer.
    """
    address = prepare()
    import ray

    _no_second_voice(ray)
    if ray.is_initialized():
        yield ray
        return
    handler = signal.getsignal(signal.SIGTERM)
    temp = None if address else _temporary_folder()
    quiet = {"logging_level": "error", "log_to_driver": False}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(
                address="local", num_cpus=max(cpus, os.cpu_count() or 1), include_dashboard=False,
                object_store_memory=STORE_BYTES, _temp_dir=f"{temp}/r", **quiet,
            )  # fmt: skip
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray has put its own in its place
        yield ray
    except ConnectionError as error:
        raise PipelineError(f"Ray: {address} does not answer ({error}); start it, or unset RAY_ADDRESS.") from None
    finally:
        ray.shutdown()
        if temp is not None:
            shutil.rmtree(temp, ignore_errors=True)


def _no_second_voice(ray: Any) -> None:
    """Keep Ray from printing what it notices of dead workers: pages of its state, where the driver tells it in a line.

    Its logs, which `ray logs` shows, have it all the same. There is no setting for it: log_to_driver is of what workers
    print.
    """
    ray._private.worker.print_to_stdstream = lambda *_, **__: None


def running_cluster() -> str | None:
    """Return the address of the cluster to join: RAY_ADDRESS, or what this user's `ray start` left here and answers."""
    told = os.environ.get("RAY_ADDRESS")
    if told:
        return None if told == "local" else told
    file = Path(os.environ.get("RAY_TMPDIR") or "/tmp", "ray/ray_current_cluster")
    try:
        if file.stat().st_uid != os.getuid():  # the folder is open to all: whose Ray we join runs code as us
            return None
        address = file.read_text(encoding="utf-8").strip()
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=2):
            return address
    except (OSError, ValueError):
        return None


def _temporary_folder() -> Path:
    """Return a new folder of this user alone, within which Ray makes an open one; remove those of killed stages."""
    parent = Path(tempfile.gettempdir())
    parent = parent if len(str(parent)) <= LONGEST_TEMP else Path("/tmp")
    for folder in parent.glob("ppo-ray-*"):  # of stages that were killed
        process = folder.name.split("-")[2]
        if process.isdecimal() and not Path("/proc", process).exists() and Path("/proc").is_dir():
            shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"ppo-ray-{os.getpid()}-", dir=parent))


def worker_environment(threads: int) -> dict[str, str]:
    """Return what a worker's environment has besides its node's: the driver's settings, and where its code lies."""
    found = {n: value for n, value in os.environ.items() if n.startswith(FORWARDED) and n not in KEPT_BACK}
    paths = [str(Path.cwd()), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    waiting = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")  # workers beside each other are not in each other's way
    return found | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": waiting}
