"""Run a command as a process of its own: wall time, peak memory of its largest process, what it printed."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def environment(python: str = sys.executable) -> dict[str, str]:
    """Return the environment for children: an interpreter's programs, no network, no usage reports."""
    path = f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"
    extra = {"PATH": path, "HF_HUB_OFFLINE": "1", "DVC_NO_ANALYTICS": "1", "CI": "true"}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, **extra, "PYTHONPATH": os.pathsep.join(paths)}


def measured(command: list[str], folder: Path = ROOT) -> dict[str, Any]:
    """Return `seconds` of wall time, `cpu_seconds`, `peak_gb` of the largest process, and the last line's JSON.

    Raises RuntimeError with the end of its output where it fails.
    """
    with tempfile.TemporaryFile("w+") as out:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=out, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{text[-3000:]}")
    found = {"seconds": round(seconds, 3), "peak_gb": peak_gb(usage)}
    found["cpu_seconds"] = round(usage.ru_utime + usage.ru_stime, 3)  # of its own processes too
    last = text.strip().splitlines()[-1] if text.strip() else ""
    return found | (json.loads(last) if last.startswith("{") else {})


def peak_gb(usage: Any) -> float:
    """Return the most memory that a process had which has ended (its largest one, where it had some of its own)."""
    return round(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9, 2)


def module(name: str, *arguments: object, python: str = sys.executable) -> list[str]:
    """Return the command that runs a module of this project, by this interpreter or another one."""
    return [python, "-m", name, *map(str, arguments)]
