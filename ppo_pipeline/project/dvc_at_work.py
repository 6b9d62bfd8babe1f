"""What to say where DVC refuses to look at files that a run of it holds.

DVC's own message ends with the advice to remove its lock file, which breaks a run that is alive. It forgets processes
that are dead by itself; what is left is a number that the system has given to another program since, after a restart.
"""

import json
from pathlib import Path
from typing import Any

LOCK = Path(".dvc/tmp/rwlock")  # {"write": {path: {"pid", "cmd"}}, "read": {path: [{"pid", "cmd"}, ...]}}


def told(error: Exception) -> str:
    """Return an error of DVC as text; one that is of files which are held says by which process, and what to do."""
    from dvc.lock import LockError

    holders = _holders() if isinstance(error, LockError) else {}
    runs = [f"`{_short(command)}` (process {pid})" for pid, command in holders.items() if _is_of_dvc(pid, command)]
    if runs:
        return f"a run of DVC is at work here, {', '.join(runs)}; ask again once it has ended."
    if holders:
        named = ", ".join(map(str, holders))
        return f"{LOCK} names process {named}, which is no run of DVC by now; docs/resume.md says what to do."
    return str(error)


def _holders() -> dict[int, str]:
    """Return the command of each living process that DVC's lock file names; none where it cannot be read."""
    import psutil

    try:
        lock: dict[str, Any] = json.loads(LOCK.read_text(encoding="utf-8"))
        infos = [*lock.get("write", {}).values(), *(info for each in lock.get("read", {}).values() for info in each)]
        return {info["pid"]: info["cmd"] for info in infos if psutil.pid_exists(info["pid"])}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def _is_of_dvc(pid: int, command: str) -> bool:
    """Tell whether the process may be the one that wrote `command`; true where that cannot be known."""
    import psutil

    try:
        words = " ".join(psutil.Process(pid).cmdline())
    except psutil.AccessDenied:
        return True
    except psutil.Error:  # it has ended
        return False
    return "dvc" in words or words.endswith(command)


def _short(command: str) -> str:
    """Return a command without the folder of its program."""
    program, *words = command.split(" ")
    return " ".join([Path(program).name, *words])
