"""A folder with the real dispatcher, launcher and server, and a stage that does what its arguments say."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
LONG = 300.0  # seconds: what has not happened by then, on the busiest machine, does not happen at all
STAGE = """
import atexit, json, os, signal, sys, threading, time
from pathlib import Path

ANSWER = "first"

def told(number, _):
    sys.exit(40 + number)

def run(given):
    action, place = given.split("@")
    place = Path(place)
    print("on stderr", file=sys.stderr)
    about = {
        "answer": ANSWER, "arguments": sys.argv[1:], "program": sys.argv[0], "cwd": os.getcwd(),
        "input": "" if sys.stdin.isatty() else sys.stdin.read(),
        "stage": os.environ.get("DVC_STAGE"), "level": os.environ.get("SHLVL"), "terminal": os.isatty(1),
        "by_line": sys.stdout.line_buffering, "session": os.getsid(0),
        "name": __name__, "spec": sys.modules["__main__"].__spec__.name, "flags": str(sys.flags), "path": sys.path,
        "warm": "PPO_PIPELINE_WARM_START" in os.environ, "pid": os.getpid(), "parent": os.getppid(),
        "descriptors": sorted(os.listdir("/proc/self/fd"))[:-1],
    }
    print(json.dumps(about))
    if action == "handle":
        signal.signal(signal.SIGTERM, told)
    if action in ("wait", "handle"):
        sys.stdout.flush()
        place.with_suffix(".part").write_text(json.dumps(about))
        place.with_suffix(".part").rename(place)
        time.sleep(600)
    if action == "raise":
        raise ValueError("a fault of the stage")
    if action == "leave":
        sys.exit(3)
    if action == "reason":
        sys.exit("a reason")
    if action == "late":
        atexit.register(print, "at exit", file=sys.stderr)
        threading.Thread(target=lambda: (time.sleep(0.3), print("a thread", file=sys.stderr))).start()
        sys.exit(259)
"""


def interruptible() -> None:
    """Take SIGINT as at a terminal: a background job's is ignored, and a server serves none but its own kind."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class WarmProject:
    """libraries: what the server imports in place of torch and the like; idle: the seconds after which it ends;
    none does before `close`, however busy the machine, unless a test is about that.
    """

    def __init__(self, folder: Path, libraries: tuple[str, ...] = ("json",), idle: float = 600.0) -> None:
        self.folder = folder
        self.sockets = Path(tempfile.mkdtemp(prefix="warm"))  # pytest's folder is too long a name for a socket
        code = folder / "ppo_pipeline/engine/warm"
        for room in ("engine", "errors"):
            shutil.copytree(
                REPOSITORY / "ppo_pipeline" / room, code.parents[1] / room, ignore=shutil.ignore_patterns("__pycache__")
            )
        (folder / "ppo_pipeline/project").mkdir()
        for name in ("__init__.py", "faults.py", "paths.py", "stages.py"):
            shutil.copy(REPOSITORY / "ppo_pipeline/project" / name, folder / "ppo_pipeline/project")
        replace(code / "libraries.py", 'THREADED = ("numpy", "pyarrow")', "THREADED = ()")
        with (code / "libraries.py").open("a") as file:
            file.write(f"\n\nLIBRARIES = {libraries!r}\n")
        replace(code / "launcher.py", "IDLE_SECONDS = 120.0", f"IDLE_SECONDS = {idle}")
        (folder / "stages").mkdir()
        (folder / "ppo_pipeline/__init__.py").touch()
        (folder / "stages/__init__.py").touch()
        shutil.copy(REPOSITORY / "stages/__main__.py", folder / "stages")
        (folder / "stages/update.py").write_text(STAGE)
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(("PPO_", "COV"))}
        self.environment |= {"DVC_ROOT": str(folder), "DVC_STAGE": "update@r001", "XDG_RUNTIME_DIR": str(self.sockets)}
        self.environment |= {"PYTHONPATH": str(folder)}

    def start(self, action: str, place: str = "there", **changes: Any) -> "subprocess.Popen[str]":
        """Start the stage; changes: of the environment, or `stdin` and `stdout`."""
        streams = {name: changes.pop(name, subprocess.PIPE) for name in ("stdin", "stdout")}
        environment = {k: v for k, v in {**self.environment, **changes}.items() if v is not None}
        command = [sys.executable, "-m", "stages", "update", f"{action}@{self.folder / place}"]
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=interruptible,
            **streams,
        )
        return process

    def run(self, action: str = "tell", **changes: Any) -> tuple[int, dict[str, Any], str]:
        """Return exit code, what the stage says of itself, and its stderr."""
        process = self.start(action, **changes)
        out, err = process.communicate("some input", timeout=LONG)
        assert out, err
        return process.returncode, json.loads(out), err

    def waiting(self, action: str = "wait", place: str = "there") -> tuple["subprocess.Popen[str]", dict[str, Any]]:
        """Start the stage and return once it waits, with what it says of itself."""
        process = self.start(action, place, stdin=subprocess.DEVNULL)
        until((self.folder / place).exists)
        return process, json.loads((self.folder / place).read_text())

    def socket_files(self) -> list[Path]:
        return list(self.sockets.glob("ppo-pipeline/*.socket"))

    def close(self) -> None:
        """End the servers; they end by themselves, but later."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                ours = str(self.sockets) in path.read_text()
            except OSError:
                continue
            if ours:
                os.kill(int(path.parent.name), signal.SIGKILL)
        shutil.rmtree(self.sockets)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new))


def until(true: Callable[[], bool], seconds: float = LONG) -> None:
    """Wait for something to become true; fail when it does not."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def state(pid: int) -> str:
    """Return a process's state as /proc has it: R, S, T, Z ...; nothing where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
