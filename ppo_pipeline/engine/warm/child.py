"""What a child of the server does, fresh from the fork: run a stage as if this were a new process."""

import atexit
import os
import runpy
import sys
import threading
from typing import Any


def fulfil(request: dict[str, Any]) -> None:
    """Run a stage's module as the program of this process, which is a child fresh from the fork."""
    for name, value in request["environment"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    os.environ["PPO_PIPELINE_WARM_START"] = f"{os.getpid()} {request['begun']}"
    # The streams of a new process; buffered by line where it is a terminal.
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()  # from the system, as in a new process; `random` does so itself at a fork
    sys.argv = ["", *request["arguments"]]
    code = 0
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if not isinstance(ended.code, int | None):
            print(ended.code, file=sys.stderr)
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    leave_process(code)


def leave_process(code: int) -> None:
    """End this process without taking apart what was imported, which costs a stage a third of a second."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()  # type: ignore[attr-defined]
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)
