"""Warm starts, with real processes: a child is to its command what a process of its own would be."""

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from warm_project import LONG, WarmProject, interruptible, replace, state, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="warm starts are for Linux")
OWN = ("pid", "parent", "session", "warm")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[WarmProject]:
    made = WarmProject(tmp_path)
    yield made
    made.close()


def gone(pid: int) -> bool:
    return state(pid) in ("", "Z")


@pytest.mark.parametrize(("action", "code"), [("tell", 0), ("leave", 3), ("raise", 1), ("reason", 1), ("late", 3)])
def test_a_warm_run_is_as_a_cold_one(project: WarmProject, action: str, code: int) -> None:
    """Exit code, arguments, folder, streams, interpreter, open descriptors; what differs is the process."""
    changes = {"DVC_STAGE": "update@r002", "SHLVL": None}
    server = project.run()[1]["parent"]  # there already, with another DVC_STAGE and SHLVL
    warm_code, warm, warm_err = project.run(action, **changes)
    cold_code, cold, cold_err = project.run(action, PPO_PIPELINE_WARM="0", **changes)
    assert (warm["warm"], cold["warm"]) == (True, False)
    assert warm["parent"] == warm["session"] == server, "Ctrl-C in a terminal must not reach the server"
    assert warm["stage"] == "update@r002"
    assert warm["input"] == "some input"
    assert warm["arguments"] == ["update", f"{action}@{project.folder / 'there'}"]
    assert {k: v for k, v in warm.items() if k not in OWN} == {k: v for k, v in cold.items() if k not in OWN}
    assert warm_code == cold_code == code
    assert warm_err.splitlines()[0] == cold_err.splitlines()[0] == "on stderr"
    assert warm_err.splitlines()[-2:] == cold_err.splitlines()[-2:] or action == "raise"
    assert warm_err.splitlines()[-1] == cold_err.splitlines()[-1]


def test_one_server_serves_equals_and_no_other(project: WarmProject) -> None:
    first, second = (project.run()[1]["parent"] for _ in range(2))
    other = project.run(SOME_SETTING="1")[1]
    assert first == second != other["parent"]
    assert other["warm"]


@pytest.mark.parametrize("there", [True, False])
def test_the_stage_settings_starts_the_server_ahead(project: WarmProject, there: bool) -> None:
    """It does not wait for it, and the next stage with a model finds it; without a base model nothing is started."""
    if there:
        (project.folder / "data/base").mkdir(parents=True)
    replace(project.folder / "ppo_pipeline/engine/warm/libraries.py", "LIBRARIES = ('json',)", "LIBRARIES = ('slow',)")
    imported = project.folder / "imported"
    slow = f"import time\nfrom pathlib import Path\nwhile not Path({str(imported)!r}).exists():\n    time.sleep(0.01)\n"
    (project.folder / "slow.py").write_text(slow)
    (project.folder / "stages/settings.py").write_text("def run():\n    print('settings')\n")
    told = subprocess.run(  # comes back while the server still imports
        [sys.executable, "-m", "stages", "settings"],
        cwd=project.folder, env=project.environment, capture_output=True, text=True, check=True, timeout=LONG,
        preexec_fn=interruptible,
    )  # fmt: skip
    assert told.stdout == "settings\n"
    names = project.socket_files()
    assert bool(names) == there
    imported.touch()
    assert project.run()[1]["warm"]
    assert not there or project.socket_files() == names, "another server"


@pytest.mark.parametrize("there", [True, False])
def test_a_light_stage_is_warm_where_a_server_is_there_and_starts_none(project: WarmProject, there: bool) -> None:
    (project.folder / "data/base").mkdir(parents=True)
    (project.folder / "stages/reward.py").write_text((project.folder / "stages/update.py").read_text())
    replace(project.folder / "ppo_pipeline/engine/warm/launcher.py", "READY_SECONDS = 0.1", f"READY_SECONDS = {LONG}")
    server = project.run()[1]["parent"] if there else None
    told = subprocess.run(
        [sys.executable, "-m", "stages", "reward", "leave@there"],
        cwd=project.folder, env=project.environment, capture_output=True, text=True, input="",
        preexec_fn=interruptible,
    )  # fmt: skip
    about = json.loads(told.stdout)
    assert told.returncode == 3
    assert about["warm"] == there
    assert not there or about["parent"] == server
    assert bool(project.socket_files()) == there


def test_an_edit_counts_at_the_next_start(project: WarmProject) -> None:
    before = project.run()[1]
    # Of another length: Python takes a .pyc for current where size and second of the source are the same.
    replace(project.folder / "stages/update.py", 'ANSWER = "first"', 'ANSWER = "second"')
    after = project.run()[1]
    assert (before["answer"], after["answer"]) == ("first", "second")
    assert before["parent"] == after["parent"]


@pytest.mark.parametrize("changes", [{"PPO_PIPELINE_WARM": "0"}, {"DVC_ROOT": None}])
def test_no_warm_start_where_it_is_switched_off_or_dvc_does_not_run_it(project: WarmProject, changes: dict) -> None:
    code, about, _ = project.run(**changes)
    assert (code, about["warm"], about["answer"]) == (0, False, "first")
    assert not any(project.sockets.iterdir())


@pytest.mark.parametrize("fault", ["open to others", "foreign", "a link", "a file"])
def test_a_folder_that_others_may_use_is_not_trusted(project: WarmProject, fault: str) -> None:
    folder = project.sockets / "ppo-pipeline"
    if fault == "a link":
        (project.sockets / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(project.sockets / "elsewhere")
    elif fault == "a file":
        folder.touch(mode=0o700)
    else:
        folder.mkdir(mode=0o700)
    if fault == "open to others":
        folder.chmod(0o711)
    if fault == "foreign":
        if os.getuid():
            pytest.skip("only root gives folders away")
        os.chown(folder, 12345, -1)
    code, about, _ = project.run()
    assert (code, about["warm"]) == (0, False)
    assert not project.socket_files()


@pytest.mark.parametrize(
    ("action", "number", "code"),
    [("wait", signal.SIGTERM, -15), ("handle", signal.SIGTERM, 55), ("wait", signal.SIGINT, 130)],
)
def test_signals_reach_the_child_and_its_end_is_the_commands(
    project: WarmProject, action: str, number: int, code: int
) -> None:
    process, about = project.waiting(action)
    process.send_signal(number)
    assert process.wait(LONG) == code
    assert gone(about["pid"])


def test_ctrl_z_stops_the_child_and_fg_lets_it_go_on(project: WarmProject) -> None:
    process, about = project.waiting()
    process.send_signal(signal.SIGTSTP)
    until(lambda: state(process.pid) == "T" and state(about["pid"]) == "T")
    process.send_signal(signal.SIGCONT)
    until(lambda: state(about["pid"]) == "S")
    process.terminate()
    assert process.wait(LONG) == -15


def test_a_killed_command_takes_its_child_along_and_no_other(project: WarmProject) -> None:
    first, one = project.waiting(place="one")
    second, two = project.waiting(place="two")
    first.kill()
    until(lambda: gone(one["pid"]))
    assert not gone(two["pid"])
    assert second.poll() is None
    second.kill()
    until(lambda: gone(two["pid"]))


def test_a_killed_child_is_a_killed_command_and_the_cure_is_told(project: WarmProject) -> None:
    process, about = project.waiting()
    os.kill(about["pid"], signal.SIGKILL)
    assert process.wait(LONG) == -9
    told = (process.stderr.read() if process.stderr else "").splitlines()[-1]
    assert told.startswith("This stage was killed (SIGKILL), most often by the system because memory ran out; lower ")
    assert "update.microbatch_tokens" in told


def test_a_killed_server_takes_its_children_along_and_the_commands_fail(project: WarmProject) -> None:
    first, one = project.waiting(place="one")
    second, two = project.waiting(place="two")
    assert one["parent"] == two["parent"]
    os.kill(one["parent"], signal.SIGKILL)
    assert (first.wait(LONG), second.wait(LONG)) == (1, 1)
    until(lambda: gone(one["pid"]) and gone(two["pid"]))
    assert "was killed" in (first.stderr.read() if first.stderr else "")
    assert project.run()[1]["warm"], "the socket that it left is in nobody's way"


def test_a_server_without_work_ends_and_leaves_nothing(tmp_path: Path) -> None:
    project = WarmProject(tmp_path, idle=0.3)
    process, about = project.waiting()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.8)  # work keeps it
    assert not gone(about["parent"])
    process.terminate()
    process.wait(LONG)
    until(lambda: gone(about["parent"]))
    assert not project.socket_files()
    assert project.run()[1]["warm"]
    project.close()


def test_commands_at_once_share_one_server(project: WarmProject) -> None:
    folder = project.sockets / "ppo-pipeline"
    folder.mkdir(mode=0o700)
    with (folder / "lock").open("w") as lock:  # whoever would not wait for it makes a socket now
        fcntl.flock(lock, fcntl.LOCK_EX)
        processes = [project.start("tell") for _ in range(4)]
        time.sleep(0.7)
        assert not project.socket_files()
    told = [json.loads(process.communicate("", timeout=LONG)[0]) for process in processes]
    assert all(about["warm"] for about in told)
    assert len({about["parent"] for about in told}) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import threading, time\nthreading.Thread(target=time.sleep, args=[60], daemon=True).start()",
        "raise RuntimeError('an import that fails')",
        "import os\nos._exit(0)",
    ],
)
def test_a_library_that_cannot_be_forked_makes_a_cold_start_and_is_not_tried_again(tmp_path: Path, source: str) -> None:
    project = WarmProject(tmp_path, libraries=("faulty",))
    (project.folder / "faulty.py").write_text(f"open({str(tmp_path / 'tries')!r}, 'a').write('x')\n{source}\n")
    for _ in range(2):
        code, about, _ = project.run()
        assert (code, about["warm"], about["answer"]) == (0, False, "first")
    assert (tmp_path / "tries").read_text() == "x"
    project.close()


def test_a_server_that_cannot_fork_makes_a_cold_start_and_keeps_its_children(project: WarmProject) -> None:
    code = "        return os.fork()\n"
    fails = f"        if Path({str(project.folder / 'full')!r}).exists():\n            raise OSError(11, 'full')\n"
    replace(project.folder / "ppo_pipeline/engine/warm/server.py", code, fails + code)
    process, _ = project.waiting()
    (project.folder / "full").touch()
    for _ in range(2):
        assert not project.run()[1]["warm"]
    (project.folder / "full").unlink()
    assert project.run()[1]["warm"]
    assert process.poll() is None
    process.terminate()


def test_a_server_that_hangs_makes_a_cold_start_and_runs_nothing_later(project: WarmProject) -> None:
    server = project.run()[1]["parent"]
    replace(project.folder / "ppo_pipeline/engine/warm/launcher.py", "START_SECONDS = 120.0", "START_SECONDS = 0.5")
    os.kill(server, signal.SIGSTOP)
    process, about = project.waiting()
    assert not about["warm"]
    (project.folder / "there").unlink()
    os.kill(server, signal.SIGCONT)
    time.sleep(0.3)
    assert not (project.folder / "there").exists()
    process.kill()
    assert not project.run()[1]["warm"], "nobody waits for it again"


def test_a_terminal_is_the_childs_too_even_where_background_jobs_may_not_write(project: WarmProject) -> None:
    project.run()
    ours, theirs = pty.openpty()
    settings = termios.tcgetattr(theirs)
    settings[3] |= termios.TOSTOP
    termios.tcsetattr(theirs, termios.TCSANOW, settings)
    process = project.start("tell", stdin=theirs, stdout=theirs)
    assert process.wait(LONG) == 0
    about = json.loads(os.read(ours, 1 << 16).decode())
    assert about["warm"]
    assert about["terminal"]
    assert about["by_line"]
    os.close(ours)
    os.close(theirs)
