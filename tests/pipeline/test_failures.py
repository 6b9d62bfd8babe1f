"""Stages that a full disk, a forbidden place, too little memory or Ctrl-C ends: one line, and the old outputs whole."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from ruamel.yaml import YAML
from safetensors.torch import save_file
from stage_runs import REPOSITORY, Stages, command_of
from warm_project import until

from ppo_pipeline.cli.main import main as cli
from ppo_pipeline.errors.machine_faults import told
from ppo_pipeline.errors.memory import out_of_memory
from ppo_pipeline.project.faults import faults_told
from ppo_pipeline.project.stages import OF_A_ROUND, STAGES
from ppo_pipeline.settings.stage_settings import ROUND_STAGES
from ppo_pipeline.storage.files import atomic_file, sha256_of
from stages.__main__ import main as stages

HUGE = 1 << 60
SLOW = """
import time
from pathlib import Path

def slow(prompts, completions, **_):
    if Path("wait").exists():
        Path("begun").touch()
        time.sleep(600)
    return [0.0] * len(prompts)
"""


def snapshot(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below the folder, hidden ones too."""
    return {str(p.relative_to(folder)): sha256_of(p) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stages:
    """A project whose first round is sampled and scored; its reward function waits where there is a file `wait`."""
    (tmp_path / "slow_reward.py").write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)

    def change(params: Any) -> None:
        component = {"name": "slow", "type": "python", "weight": 1.0, "function": "slow_reward:slow"}
        params["reward"] = {
            "components": [component | {"format": "text", "columns": {}, "none_as": None}],
            "correct": None,
        }

    return Stages(tmp_path, change)


def start(project: Stages, stage: str, name: str = "", file_limit: int | None = None) -> "subprocess.Popen[str]":
    """Start a stage as a process of its own, where no file may become larger than `file_limit` bytes."""

    def limit() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background job's is ignored
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))

    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-m", "stages", *command_of(stage, name)],
        cwd=project.folder, env=environment, stdout=pipe, stderr=pipe, text=True, preexec_fn=limit,
    )  # fmt: skip


def one_line(process: "subprocess.Popen[str]", code: int = 1) -> str:
    """Return what a failing stage says: one line, no traceback."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, out + err
    assert len(err.splitlines()) == 1, err
    return err


@pytest.mark.parametrize(
    ("stage", "limit", "target"),
    [
        ("prompts", 500, "data/prompts.parquet"),
        ("settings", 100, "data/settings"),
        ("init", 3000, "data/rounds/r000/policy"),
    ],
)
def test_a_stage_that_cannot_write_all_says_so_and_leaves_what_was_there(
    project: Stages, stage: str, limit: int, target: str
) -> None:
    """Python's own writes, pyarrow's, safetensors': each has its own words for it."""
    project.run("init")
    before = snapshot(project.folder)
    text = one_line(start(project, stage, file_limit=limit))
    assert text.startswith(f"Error: {target}: cannot be written (")
    assert "raise the limit of file sizes" in text
    assert snapshot(project.folder) == before
    project.run(stage)
    assert snapshot(project.folder) == before


def test_a_file_where_a_folder_should_be_is_named(project: Stages) -> None:
    (project.folder / "data/rounds").write_text("mine")
    before = snapshot(project.folder)
    text = one_line(start(project, "init"))
    assert text.startswith("Error: data/rounds/r000/policy: cannot be written (")
    assert "a file is where a folder should be" in text
    assert snapshot(project.folder) == before
    (project.folder / "data/prompts.parquet").unlink()
    (project.folder / "data/prompts.parquet/full").mkdir(parents=True)
    text = one_line(start(project, "prompts"))
    assert text.startswith("Error: data/prompts.parquet: cannot be written (Is a directory)")


@pytest.mark.skipif(os.getuid() == 0, reason="permissions do not bind root")
def test_a_folder_that_may_not_be_written_to_is_named(project: Stages) -> None:
    (project.folder / "data").chmod(0o500)
    before = snapshot(project.folder)
    text = one_line(start(project, "prompts"))
    (project.folder / "data").chmod(0o700)
    assert text.startswith("Error: data/prompts.parquet: cannot be written (Permission denied); give this user")
    assert snapshot(project.folder) == before


def test_ctrl_c_ends_a_stage_in_one_line_and_the_next_run_does_the_rest(project: Stages) -> None:
    for stage in ("init", "rollout", "reward"):
        project.run(stage, "" if stage == "init" else "r001")
    (project.folder / "wait").touch()
    before = snapshot(project.folder)
    process = start(project, "reward", "r001")
    until((project.folder / "begun").exists)
    process.send_signal(signal.SIGINT)
    assert one_line(process, 130) == "Interrupted; no output is half-written. `dvc repro` goes on from here.\n"
    (project.folder / "begun").unlink()
    assert snapshot(project.folder) == before
    (project.folder / "wait").unlink()
    project.run("reward", "r001")


def test_ctrl_c_while_a_stage_imports_says_the_same(project: Stages, tmp_path: Path) -> None:
    (tmp_path / "pyarrow.py").write_text(
        "from pathlib import Path\nPath('begun').touch()\nimport time; time.sleep(600)"
    )
    process = start(project, "advantage", "r001")
    until((project.folder / "begun").exists)
    process.send_signal(signal.SIGINT)
    assert one_line(process, 130).startswith("Interrupted; ")


WRITERS: dict[str, Callable[[Path], Any]] = {
    "python": lambda path: path.write_bytes(b"x" * 100_000),
    "json": lambda path: path.write_text(json.dumps(list(range(100_000)))),
    "pyarrow": lambda path: pq.write_table(pa.table({"a": np.random.rand(100_000)}), path),
}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_told_by_the_output_s_name(tmp_path: Path, writer: str) -> None:
    target = tmp_path / "out"
    target.write_text("old")

    @click.command()
    def stage() -> None:
        with faults_told(), atomic_file(target) as partial:
            partial.symlink_to("/dev/full")
            WRITERS[writer](partial)

    result = CliRunner().invoke(stage, [])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {target}: cannot be written (")
    assert "make room (`dvc gc -w`" in result.stderr
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_the_error_numbers_in_safetensors_words_are_read(tmp_path: Path) -> None:
    """A limit of file sizes is the full disk that a test can have: the real error names its number as text."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(Exception, match="27") as caught:
            save_file({"a": torch.zeros(10_000)}, tmp_path / "t")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "raise the limit of file sizes" in (told(caught.value) or "")
    full = type(caught.value)(str(caught.value).replace("27", str(errno.ENOSPC)))
    assert "make room" in (told(full) or "")


ALLOCATORS: dict[str, Callable[[], Any]] = {
    "torch": lambda: torch.empty(HUGE // 4),
    "numpy": lambda: np.empty(HUGE // 4, np.float32),
    "pyarrow": lambda: pa.allocate_buffer(HUGE),
    "python": lambda: bytearray(HUGE),
    "cuda": lambda: raised(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ...")),
    "mps": lambda: raised(RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)")),
}


def raised(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("allocator", ALLOCATORS)
@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("rollout", "rollout.batch_size"),
        ("reference", "reference.batch_tokens"),
        ("update", "update.microbatch_tokens, or set update.gradient_checkpointing: true"),
        ("evaluate", "evaluate.batch_size"),
        ("reward", "batch_tokens of the reward model"),
        ("base", "a smaller base.model"),
    ],
)
def test_too_little_memory_names_the_stage_s_setting(allocator: str, name: str, setting: str) -> None:
    """The libraries' real errors, but for the GPUs'."""

    @click.command()
    def stage() -> None:
        with faults_told(less_memory=STAGES[name].less_memory):
            ALLOCATORS[allocator]()

    result = CliRunner().invoke(stage, [])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: out of memory (")
    assert setting in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "error", [ValueError("out of memory"), RuntimeError("shapes differ"), FileNotFoundError(2, "x")]
)
def test_other_errors_keep_their_traceback(error: Exception) -> None:
    assert told(error) is None
    assert not out_of_memory(error)

    @click.command()
    def stage() -> None:
        with faults_told():
            raise error

    assert CliRunner().invoke(stage, []).exception is error


def test_the_command_line_tells_a_full_disk_too(project: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.folder)
    before = snapshot(project.folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        result = CliRunner().invoke(cli, ["rounds", "add", "1"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert result.exit_code == 1
    assert "params.yaml: cannot be written (File too large)" in result.stderr
    assert snapshot(project.folder) == before


def test_a_stage_that_runs_out_of_memory_names_its_own_setting(
    project: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.reward.score_samples", lambda *_: bytearray(HUGE))
    for stage in ("init", "rollout"):
        project.run(stage, "" if stage == "init" else "r001")
    monkeypatch.chdir(project.folder)
    result = CliRunner().invoke(stages, ["reward", "r001"])
    assert "lower batch_tokens of the reward model" in result.output
    assert not project.path("r001/rewards.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("update r009", "data/settings: no round 'r009'. Did you mean 'r00"),
        ("rollout r000", "data/settings/r000/rollout.json: no such file; the untrained policy r000 is only evaluated."),
        ("update", "the stage `update` takes a round: python -m stages update r001"),
        ("base r001", "the stage `base` takes no round: python -m stages base"),
        ("source", "the stage `source` takes a name in `sources`: python -m stages source base"),
        ("source mine", "params.yaml: sources: no 'mine'."),
        ("preferences", "the stage `preferences` takes a name in `preferences`: python -m stages preferences NAME"),
        ("preferences mine", "params.yaml: preferences: no 'mine'."),
        ("updat r001", "'updat' is not one of 'code', 'settings', 'source', 'base',"),
        ("reward r001", "data/rounds/r001/rollouts.parquet: no such file; `dvc repro` makes it"),
    ],
)
def test_what_a_stage_cannot_do_is_told(
    project: Stages, monkeypatch: pytest.MonkeyPatch, arguments: str, said: str
) -> None:
    monkeypatch.chdir(project.folder)
    result = CliRunner().invoke(stages, arguments.split())
    assert result.exit_code in (1, 2)
    assert said in result.output


def test_without_settings_a_stage_says_what_writes_them(project: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.folder)
    shutil.rmtree("data/settings")
    said = "data/settings/r001/update.json: no such file; `dvc repro settings` writes it."
    assert said in CliRunner().invoke(stages, ["update", "r001"]).output


def test_the_registry_has_each_stage_of_the_folder_and_of_dvc_yaml() -> None:
    assert {path.stem for path in (REPOSITORY / "stages").glob("[a-z]*.py")} == set(STAGES)
    entries = YAML(typ="safe").load(REPOSITORY / "dvc.yaml")["stages"]
    words = {name: entry.get("do", entry)["cmd"].split()[3:] for name, entry in entries.items()}
    assert {command[0] for command in words.values()} == set(STAGES)
    for command in words.values():
        assert len(command) == (2 if STAGES[command[0]].takes else 1)
    assert list(ROUND_STAGES) == OF_A_ROUND
    assert all(STAGES[name].settings is kind for name, kind in ROUND_STAGES.items())
    assert STAGES["base"].settings is None
    for name in OF_A_ROUND:
        assert f"data/rounds/${{key}}/{STAGES[name].makes}" in entries[name]["do"]["outs"]
