"""The server's program: import the libraries once, then fork a child for each launcher that asks.

Nothing of this project is imported here, so that a child imports the code as it is on disk when its stage starts.
Started by launcher.py as `python server.py ORDER`, ORDER being JSON; speaks with launchers in JSON messages:

    server: {"ready": pid}    launcher: {"module", "arguments", "cwd", "environment", "begun"}, stdin, stdout and stderr
    server: {"started": pid} or {"refused": 1}    launcher: {"signal": number}, any number of times
    server: {"status": wait status of the child}

A launcher that goes away takes its child with it, and a server that goes away all of its children.
"""

import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import struct
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

# What a terminal sends to a whole process group: the child's own subprocesses get it too.
TO_THE_GROUP = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGSTOP, signal.SIGCONT)


class Served:
    """A connected launcher; child, process: the child's pid and a descriptor of it, once there is one."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.child: int | None = None
        self.process: int | None = None

    def tell(self, **message: int) -> None:
        """Send a message; a launcher that is gone is noticed when its connection is read."""
        with contextlib.suppress(OSError):
            self.connection.send(json.dumps(message).encode())

    def kill(self, number: int) -> None:
        """Send a signal to the child, which is not reaped yet, so that its pid is its own."""
        if self.child is not None:
            send = os.killpg if number in TO_THE_GROUP else os.kill
            with contextlib.suppress(ProcessLookupError):
                send(self.child, number)


class Server:
    """One listening socket, any number of launchers, one thread."""

    def __init__(self, listener: socket.socket, path: Path, idle: float) -> None:
        self.listener, self.idle = listener, idle
        self.path: Path | None = path  # None once it is taken away
        self.launchers: list[Served] = []
        self.selector = selectors.PollSelector()  # epoll would be shared with the children
        self.selector.register(listener, selectors.EVENT_READ)
        listener.setblocking(False)

    def serve(self) -> dict[str, Any] | None:
        """Return a request, in the child that is to fulfil it; or None, in the server, when nobody asks any more."""
        while True:
            events = self.selector.select(None if self.launchers else self.idle)
            if not events and self.close():
                return None
            for key, _ in events:
                if key.data is None:
                    self.accept()
                elif key.data in self.launchers:
                    request = self.attend(key.data, key.fd)
                    if request is not None:
                        return request

    def close(self) -> bool:
        """Take the socket's name away and tell whether that is the end: a launcher may have come just before."""
        if self.path is not None:
            with (self.path.parent / "lock").open("w") as lock:  # else a new server's socket might be taken
                fcntl.flock(lock, fcntl.LOCK_EX)
                self.path.unlink(missing_ok=True)
            self.path = None
        return not self.accept()

    def accept(self) -> bool:
        try:
            connection, _ = self.listener.accept()
        except OSError:
            return False
        _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != os.getuid():
            connection.close()
            return False
        launcher = Served(connection)
        self.launchers.append(launcher)
        self.selector.register(connection, selectors.EVENT_READ, launcher)
        launcher.tell(ready=os.getpid())
        return True

    def attend(self, launcher: Served, descriptor: int) -> dict[str, Any] | None:
        """Do what an event asks for; return the request in a child that was forked for it."""
        if descriptor == launcher.process and launcher.child is not None:
            _, status = os.waitpid(launcher.child, 0)
            launcher.child = None
            launcher.tell(status=status)
            self.forget(launcher)
            return None
        try:
            data, descriptors, _, _ = socket.recv_fds(launcher.connection, 1 << 20, 3)
        except OSError:
            data, descriptors = b"", []
        message = json.loads(data) if data else {}
        if "module" in message and launcher.child is None and len(descriptors) == 3:
            return self.fork(launcher, message, descriptors)
        if "signal" in message:
            launcher.kill(message["signal"])
        else:  # it is gone, and its child must not go on
            launcher.kill(signal.SIGKILL)
            self.selector.unregister(launcher.connection)
            if launcher.child is None:
                self.forget(launcher)
        return None

    def fork(self, launcher: Served, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any] | None:
        server = os.getpid()
        try:
            pid = fork()
        except OSError:  # no memory, too many processes
            pid = -1
        if pid == 0:
            die_with(server)
            os.setpgid(0, 0)
            for number, descriptor in enumerate(descriptors):
                os.dup2(descriptor, number)
        for descriptor in descriptors:
            os.close(descriptor)
        if pid == 0:
            self.leave()
            return request
        if pid < 0:
            launcher.tell(refused=1)
            self.forget(launcher)
            return None
        with contextlib.suppress(OSError):  # the child does it too; whoever comes first
            os.setpgid(pid, pid)
        launcher.child, launcher.process = pid, os.pidfd_open(pid)
        self.selector.register(launcher.process, selectors.EVENT_READ, launcher)
        launcher.tell(started=pid)
        return None

    def forget(self, launcher: Served) -> None:
        for each in (launcher.connection, launcher.process):
            if each is not None:
                with contextlib.suppress(KeyError):
                    self.selector.unregister(each)
        launcher.connection.close()
        if launcher.process is not None:
            os.close(launcher.process)
        self.launchers.remove(launcher)

    def leave(self) -> None:
        """Close what is the server's, in a child: else the others would not see the server's end."""
        self.listener.close()
        for launcher in self.launchers:
            launcher.connection.close()
            if launcher.process is not None:
                os.close(launcher.process)


def fork() -> int:
    """Return 0 in the child and its pid in the parent, as os.fork does, without Python's warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads; import_libraries looks at these
        return os.fork()


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends."""
    set_parent_death_signal = 1
    if ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGKILL) or os.getppid() != parent:
        os._exit(1)


def import_libraries(threaded: list[str], libraries: list[str]) -> None:
    """Import what there is; raise RuntimeError where a fork would not be safe afterwards."""
    tasks, before = Path("/proc/self/task"), 0
    for names in (threaded, libraries):
        before = len(list(tasks.iterdir()))
        for name in names:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    if len(list(tasks.iterdir())) > before:
        raise RuntimeError(f"one of {libraries} started a thread")
    os.close(os.pidfd_open(os.getpid()))  # OSError where the kernel has none
    torch = sys.modules.get("torch")
    if torch is None:
        return
    # A process that has asked the driver for its GPUs, be it their number, leaves children that cannot use them.
    pid = fork()
    if pid == 0:
        os._exit(1 if getattr(torch._C, "_cuda_isInBadFork", lambda: False)() else 0)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise RuntimeError("an import initialised CUDA")


def main() -> None:
    """Serve as argv orders; in a child, run what was asked for."""
    order = json.loads(sys.argv[1])
    sys.path[:] = order["path"]
    os.chdir("/")
    try:
        gc.disable()  # the garbage of imports is not worth looking for
        import_libraries(order["threaded"], order["libraries"])
        gc.freeze()  # what is there now is not touched again, so that its memory stays shared
        gc.enable()
    except BaseException:
        Path(order["refusal"]).write_text(traceback.format_exc(), encoding="utf-8")
        raise
    server = Server(socket.socket(fileno=order["listener"]), Path(order["socket"]), order["idle"])
    request = server.serve()
    if request is not None:
        os.chdir(request["cwd"])
        importlib.invalidate_caches()
        importlib.import_module("ppo_pipeline.engine.warm.child").fulfil(request)


if __name__ == "__main__":
    main()
