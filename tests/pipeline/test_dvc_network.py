"""A whole run under the real dvc in which no process asks the network for anything; and a trap that tells."""

import json
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from dvc_project import REPOSITORY, Project

pytestmark = pytest.mark.slow

# Python's own audit events: every program here opens its connections by Python (torch and Arrow open none).
TRAP = """
import os, socket, sys

def trap(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg") and arguments[0].family == socket.AF_UNIX:
        return
    asked = ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
    if event in asked or event == "socket.sendmsg":
        with open(os.environ["NETWORK_LOG"], "a") as file:
            print(event, arguments, sys.orig_argv, file=file)
        raise PermissionError(f"no network here: {event}")

sys.addaudithook(trap)
with open(os.environ["NETWORK_LOG"] + ".processes", "a") as file:
    print(sys.orig_argv, file=file)
"""


class Trapped(Project):
    """A project whose programs write each attempt to reach a network to a file, and fail at it."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.log = log
        os.environ["NETWORK_LOG"] = str(log)
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(TRAP)  # the folder is on PYTHONPATH
        super().__init__(folder)
        shutil.copy(REPOSITORY / ".dvc/config", folder / ".dvc/config")  # what says that DVC reports nothing
        self.change("rounds", {"r001": {"parent": "r000"}})
        self.log.unlink(missing_ok=True)  # `dvc init` is not ours

    def start(self, *command: str) -> Any:
        return super().start("env", "-u", "DVC_NO_ANALYTICS", *command)  # .dvc/config has to do

    def attempts(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def processes(self) -> str:
        return self.log.with_name(self.log.name + ".processes").read_text()


@pytest.mark.parametrize(
    "warm",
    [
        pytest.param("0", marks=pytest.mark.rare),
        pytest.param("1", marks=pytest.mark.skipif(sys.platform != "linux", reason="")),
    ],
)
def test_a_run_asks_no_network_and_a_reward_service_trips_the_trap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm: str
) -> None:
    for name in ("HF_HUB_OFFLINE", "CI", "DVC_TEST"):  # these would hide what asks
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETWORK_LOG", "")
    monkeypatch.setenv("PPO_PIPELINE_WARM", warm)
    project = Trapped(tmp_path / "project", tmp_path / "network.log")
    project.repro()
    assert project.attempts() == ""
    records = [json.loads(path.read_text()) for path in (project.folder / "logs").rglob("*.json")]
    assert any(record["warm"] for record in records) is (warm == "1")
    for program in ("'repro'", "'base'", "'rollout'", "'update'"):
        assert program in project.processes()
    if warm == "1":
        return
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    service = {
        "name": "judge", "type": "http", "weight": 1.0, "url": f"http://127.0.0.1:{port}/", "format": "text",
        "columns": [], "batch_size": 8, "timeout_seconds": 300.0, "retries": 0, "max_answer_bytes": 1000,
        "token_variable": None,
    }  # fmt: skip
    project.change("reward", {"components": [service], "correct": None})
    process = project.start("dvc", "repro", "reward@r001")
    _, err = process.communicate()
    assert process.returncode
    assert "Is the service running at this address?" in err
    assert str(port) in project.attempts()
    assert "'reward'" in project.attempts()
