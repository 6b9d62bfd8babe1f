"""Sealing and unsealing that break off at any step, with the real dvc on stages that write small files.

After each break `dvc gc` runs, as a user might: nothing that is needed may go. Calling the same again must finish.
"""

from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

from benchmarks.dvc_only import make
from benchmarks.measuring import measured
from benchmarks.projects import change, rounds
from ppo_pipeline.errors import PipelineError
from ppo_pipeline.project.sealing import index, lock_text
from ppo_pipeline.project.sealing.seal import seal
from ppo_pipeline.project.sealing.tracked import dvc_project
from ppo_pipeline.project.sealing.unseal import unseal
from ppo_pipeline.settings.params import load_params

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PPO_PIPELINE_WARM", "0")  # the stubs need no torch
        return build(tmp_path_factory)


def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = make(tmp_path_factory.mktemp("stubs") / "project")
    change(folder, {"rounds": rounds(3)})
    measured(["dvc", "repro", "--quiet"], folder)
    return folder


@pytest.fixture
def project(built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(built)
    return built


def outdated() -> set[str]:
    with dvc_project() as dvc:
        return set(dvc.outdated())


def collect_garbage() -> None:
    """Run `dvc gc -w`; it may refuse a project in between, and must not take what is needed."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            repo.gc(workspace=True, force=True)
    except DvcException as error:
        assert "is specified in" in str(error)


def files() -> dict[str, bytes]:
    folders = [Path(name) for name in ("sealed", "data/rounds", "metrics/stages")]
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path.as_posix(): path.read_bytes() for path in [*found, Path("dvc.lock"), Path("params.yaml")]}


def stages(text: bytes) -> dict[str, str]:
    return lock_text.split(text.decode())


def breaks(monkeypatch: pytest.MonkeyPatch, step: str, after: bool) -> None:
    """Let a step break off before it does its work, or right after it."""
    real: Callable[..., Any] = resolve_name(f"ppo_pipeline.project.sealing.{step}")

    def broken(*arguments: Any, **named: Any) -> Any:
        if after:
            real(*arguments, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(f"ppo_pipeline.project.sealing.{step}", broken)


SEAL_STEPS = (
    "seal._write_round", "seal.write_entries", "settle.RoundsFile.save", "settle.lock_text.take_out",
    "settle._remove_metrics",
)  # fmt: skip
UNSEAL_STEPS = ("unseal._restore", "unseal.RoundsFile.save", "unseal.lock_text.put_back", "unseal.write_entries")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", SEAL_STEPS)
def test_an_interrupted_sealing_is_finished_by_the_next(
    project: Path, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    before = files()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        breaks(patch, step, after)
        seal(keep=1)
    collect_garbage()
    seal(keep=1)
    assert list(load_params().rounds) == ["r003"]
    assert list(index.entries()) == ["r001", "r002"]
    assert outdated() == {"settings", "summary"}
    assert not [key for key in lock_text.read() if key.endswith(("@r001", "@r002"))]
    assert {path.as_posix() for path in Path("sealed").glob("*")} == {
        "sealed/r001.dvc", "sealed/r002.dvc", "sealed/metrics", "sealed/stages", "sealed/rounds.yaml",
    }  # fmt: skip
    collect_garbage()
    assert unseal("r001") == ["r001", "r002"]
    assert_as(before)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", UNSEAL_STEPS)
def test_an_interrupted_unsealing_is_finished_by_the_next(
    project: Path, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    before = files()
    seal(keep=1)
    collect_garbage()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        breaks(patch, step, after)
        unseal("r001")
    collect_garbage()
    unseal("r001")
    assert_as(before)


def test_an_interrupted_unsealing_can_be_sealed_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files()
    seal(keep=1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        breaks(patch, "unseal.write_entries", False)
        unseal("r001")
    assert seal(keep=1) == ["r001", "r002"]
    assert outdated() == {"settings", "summary"}
    unseal("r001")
    assert_as(before)


def assert_as(before: dict[str, bytes]) -> None:
    """DVC finds nothing to do, the files are the same bytes, and so are the entries of dvc.lock in another order."""
    assert outdated() == set()
    now = files()
    assert stages(now.pop("dvc.lock")) == stages(before["dvc.lock"])
    params = now.pop("params.yaml")
    assert b"rounds:" in params and list(load_params().rounds) == ["r001", "r002", "r003"]
    rest = {path: content for path, content in before.items() if path not in ("dvc.lock", "params.yaml")}
    assert now == rest


def test_an_outdated_or_unfinished_round_is_refused_and_nothing_changes(project: Path) -> None:
    table = Path("data/rounds/r002/rewards.parquet")
    good = table.read_bytes()
    table.unlink()
    table.write_bytes(b"other")
    before = files()
    with pytest.raises(PipelineError, match=r"r002 cannot be sealed: its stage reward .*dvc repro reward@r002"):
        seal(keep=1)
    assert files() == before
    table.write_bytes(good)
    assert outdated() == set()
    change(project, {"advantage.kl_coef": 0.5})
    with pytest.raises(PipelineError, match=r"Stage settings is outdated"):
        seal(keep=1)
    change(project, {"advantage.kl_coef": 0.05})
    assert outdated() == set()


def test_sealing_writes_no_object_of_the_cache_and_other_files_in_the_folder_stay(project: Path) -> None:
    cache = {path: path.read_bytes() for path in Path(".dvc/cache/files").rglob("*") if path.is_file()}
    note = Path("data/rounds/r001/notes.txt")
    note.write_text("mine")
    seal(keep=1)
    assert {path: path.read_bytes() for path in Path(".dvc/cache/files").rglob("*") if path.is_file()} == cache
    assert outdated() == {"settings", "summary"}
    unseal("r001")
    assert note.read_text() == "mine"
    note.unlink()
    assert outdated() == set()


def test_a_round_that_an_earlier_version_sealed_as_one_folder_is_refused(project: Path) -> None:
    seal(keep=1)
    good = index.dvc_file("r001").read_text()
    index.dvc_file("r001").write_text("wdir: ..\nouts:\n- md5: x.dir\n  path: data/rounds/r001\n")
    with pytest.raises(PipelineError, match=r"sealed/r001\.dvc: sealed by an earlier version"):
        unseal("r001")
    assert list(index.entries()) == ["r001", "r002"]
    index.dvc_file("r001").write_text(good)
    unseal("r001")
    assert outdated() == set()
