"""Whom a server may serve: launchers for which a child of the server is what a child of their own would be."""

import hashlib
import json
import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any

# These may differ between the stages of one `dvc repro`; the child gets its launcher's.
VOLATILE = ("DVC_STAGE", "SHLVL", "_", "OLDPWD", "PWD")
STATUS = (
    "Umask", "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs",
    "Seccomp", "Cpus_allowed", "Mems_allowed",
)  # fmt: skip


def private_folder() -> Path:
    """Return the folder for sockets, made where it is not there.

    Raises OSError where the folder is not this user's, or others may enter it.
    """
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or "/nowhere")
    if runtime.is_dir():
        folder = runtime / "ppo-pipeline"
    else:
        folder = Path(tempfile.gettempdir(), f"ppo-pipeline-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) != 0o700:
        raise PermissionError(f"{folder} is not a folder of this user alone")
    return folder


def identity(server: Path, libraries: list[str]) -> str:
    """Return a hash of all that a process inherits or imports and that a fork of the server would have instead.

    server: the server's program; an edited one serves nobody from before the edit.
    """
    parts: list[Any] = [
        hashlib.sha256(server.read_bytes()).hexdigest(),
        libraries,
        [sys.version, sys.executable, sys.prefix, sys.path, str(sys.flags), sys.warnoptions],
        [str(Path.cwd()), {k: v for k, v in os.environ.items() if k not in VOLATILE}],
        [(p, Path(p).stat().st_mtime_ns) for p in sys.path if Path(p).name in ("site-packages", "dist-packages")],
        [os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), str(Path("/proc/self/root").readlink())],
    ]
    lines = Path("/proc/self/status").read_text().splitlines()
    parts.append([line for line in lines if line.split(":")[0] in STATUS])
    parts += [Path(f"/proc/self/{name}").read_text() for name in ("limits", "cgroup", "oom_score_adj")]
    namespaces = Path("/proc/self/ns")
    parts.append(sorted((path.name, str(path.readlink())) for path in namespaces.iterdir()))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
