"""Ask the server for a warm child to run a stage in, and stand in for that child: its signals and its exit code."""

import contextlib
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from .identity import VOLATILE, identity, private_folder
from .libraries import LIBRARIES, THREADED, modelling

SERVER = Path(__file__).with_name("server.py")
IDLE_SECONDS = 120.0  # as long as one looks at a result before the next run
READY_SECONDS = 0.1  # a stage that needs no torch starts as fast by itself
START_SECONDS = 120.0  # imports from a slow disk
REFUSED_SECONDS = 600.0  # after a failure nobody tries again for so long
MESSAGE = 1 << 16
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class NoWarmStart(Exception):
    """Why the stage has to run in its own process."""


TROUBLE = (NoWarmStart, OSError, ValueError, struct.error)


class Work(NamedTuple):
    """A program to run in a child: a module, its arguments, and what makes it need less memory."""

    module: str
    arguments: list[str]
    less_memory: str


def run_warm(work: Work, base: Path) -> None:
    """Do the work in a child of the server for this base model, and end this process as the child ended.

    Returns, and nothing has run, where there is any trouble with the server. Linux alone.
    """
    try:
        connection = connected(base)
    except TROUBLE:
        return
    _run(connection, work)


def run_if_warm(work: Work, base: Path) -> None:
    """Do the same where a server is there and has done its imports."""
    try:
        connection = dial(place_of(base)[0])
        if connection is None:
            return
        connection.settimeout(READY_SECONDS)
        if "ready" not in read(connection):
            return
        connection.settimeout(None)
    except TROUBLE:
        return
    _run(connection, work)


def _run(connection: socket.socket, work: Work) -> None:
    with connection:
        try:
            submit(connection, work)
        except (NoWarmStart, OSError, ValueError):
            return
        follow(connection, work.less_memory)


def start_ahead(base: Path) -> None:
    """Start the server that a stage with this base model will ask for, and do not wait: it imports meanwhile."""
    with contextlib.suppress(*TROUBLE):
        path, refusal, libraries = place_of(base)
        if not refusal.exists():
            (dial(path) or start(path, refusal, libraries)).close()


def place_of(base: Path) -> tuple[Path, Path, list[str]]:
    """Return the socket of the server for stages with this base model, its refusal's file, and what it imports."""
    folder = private_folder()
    libraries = [*LIBRARIES, *modelling(base)]
    name = identity(SERVER, [*THREADED, *libraries])
    return folder / f"{name}.socket", folder / f"{name}.refused", libraries


def connected(base: Path) -> socket.socket:
    """Return a connection to a server that is ready; start one where there is none."""
    path, refusal, libraries = place_of(base)
    if refusal.exists():
        if time.time() - refusal.stat().st_mtime < REFUSED_SECONDS:
            raise NoWarmStart(refusal.read_text(encoding="utf-8"))
        refusal.unlink(missing_ok=True)
    connection = dial(path) or start(path, refusal, libraries)
    try:
        connection.settimeout(START_SECONDS)
        if "ready" not in read(connection):
            raise NoWarmStart("the server ended before it was ready")
    except (OSError, NoWarmStart) as error:
        connection.close()
        if not refusal.exists():
            refusal.write_text(f"{error}\n", encoding="utf-8")
        raise
    connection.settimeout(None)
    return connection


def dial(path: Path) -> socket.socket | None:
    """Return a connection to the server at `path`, None where there is none; NoWarmStart where it is another user's."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(5.0)
    try:
        connection.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except OSError:
        connection.close()
        raise
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid != os.getuid():
        connection.close()
        raise NoWarmStart("the server is another user's")
    return connection


def start(path: Path, refusal: Path, libraries: list[str]) -> socket.socket:
    """Start a server on `path` and return a connection to it.

    The socket is made here, under the folder's lock, and handed to the server: two launchers make one server, and
    both wait in its queue while it imports. The lock is the folder's, since a name's own would lie about for ever.
    """
    with (path.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        connection = dial(path)
        if connection is not None:
            return connection
        path.unlink(missing_ok=True)  # of a server that was killed
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(path))
            listener.listen(64)
            order = {
                "path": sys.path, "threaded": THREADED, "libraries": libraries, "listener": listener.fileno(),
                "socket": str(path), "refusal": str(refusal), "idle": IDLE_SECONDS,
            }  # fmt: skip
            flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
            server = subprocess.Popen(
                [sys.executable, *flags, str(SERVER), json.dumps(order)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )
            server.returncode = 0  # nobody waits for it: it outlives this process
            connection = dial(path)  # while the lock is held: a server without work needs it to end
    assert connection is not None, "the socket is open here"
    return connection


def submit(connection: socket.socket, work: Work) -> None:
    """Have the work started, with this process's streams and folder; NoWarmStart where it was not."""
    request = {
        "module": work.module,
        "arguments": work.arguments,
        "cwd": str(Path.cwd()),
        "environment": {name: os.environ.get(name) for name in VOLATILE},
        "begun": Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19],
    }
    socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
    if "started" not in read(connection):
        raise NoWarmStart("the server did not start the stage")


def follow(connection: socket.socket, less_memory: str) -> None:
    """Pass signals on to the child; when it has ended, end this process likewise. Never returns."""

    def forward(number: int, _: Any) -> None:
        send(connection, number)

    def stop(_: int, __: Any) -> None:  # Ctrl-Z
        send(connection, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        send(connection, signal.SIGCONT)

    for number in FORWARDED:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, forward)
    if signal.getsignal(signal.SIGTSTP) != signal.SIG_IGN:
        signal.signal(signal.SIGTSTP, stop)
    status = None
    while status is None:
        try:
            message = read(connection)
        except OSError:
            message = {}
        if not message:
            print("The server that ran this stage was killed, and the stage with it; run it again.", file=sys.stderr)
            sys.exit(1)
        status = message.get("status")
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the child has left its own
        if -code == signal.SIGKILL:
            print(
                "This stage was killed (SIGKILL), most often by the system because memory ran out; "
                f"{less_memory}. No output is half-written.",
                file=sys.stderr,
                flush=True,
            )
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code if code >= 0 else 128 - code)


def send(connection: socket.socket, number: int) -> None:
    """Ask the server to send a signal to the child; one that is gone is noticed when it is read from."""
    with contextlib.suppress(OSError):
        connection.send(json.dumps({"signal": int(number)}).encode())


def read(connection: socket.socket) -> dict[str, Any]:
    """Return the next message, an empty one where the server is gone."""
    data = connection.recv(MESSAGE)
    message: dict[str, Any] = json.loads(data) if data else {}
    return message
