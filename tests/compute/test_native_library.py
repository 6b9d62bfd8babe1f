"""How the CPU kernels are compiled and found; without them everything goes on with torch. Each in a fresh process."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ppo_pipeline.compute.native import library

NATIVE = Path(library.__file__).parent
# Imports torch once and forks a process for each environment that a line names, all of a line at the same time.
SERVER = """
import json, os, sys, torch
from ppo_pipeline.compute.native import library
from ppo_pipeline.compute.native.operations import serves

library.FLAGS = ("-O0", "-fopenmp", "-fPIC")  # seconds less
def answer():
    kernels, there = library.kernels(), serves(torch.device("cpu"), torch.float32)
    assert there == (kernels is not None) == (library.in_use() == "native")
    assert library.identity() == ("torch" if kernels is None else os.path.basename(kernels._name)[:-3])
    return library.identity()

for line in sys.stdin:
    children = []
    for environment in json.loads(line):
        reads, writes = os.pipe()
        if not os.fork():
            os.environ.clear()
            os.environ.update(environment)
            for word in environment.get("ALLOW", "").split():
                library.allow(word == "native")
            os.write(writes, answer().encode())
            os._exit(0)
        os.close(writes)
        children.append(reads)
    said = [os.read(reads, 1000).decode() for reads in children]
    print(json.dumps([said, [os.wait()[1] for _ in said]]), flush=True)
"""
STAND_IN = '#!/bin/sh\n[ "$1" = --version ] && echo "a compiler, version 1" && exit 0\n'

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernels are for Linux"),
    pytest.mark.skipif(library._compiler() is None, reason="no C compiler on this machine"),
]


class Server:
    def __init__(self) -> None:
        command = [sys.executable, "-c", SERVER]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def all(self, *environments: dict[str, str]) -> list[str]:
        """Return whose kernels serve in processes with these variables, other than usual; an empty one is not there."""
        usual = {name: value for name, value in os.environ.items() if name != "CC"}
        given = [{name: v for name, v in {**usual, **more}.items() if v} for more in environments]
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(given) + "\n")
        self.process.stdin.flush()
        said, ended = json.loads(self.process.stdout.readline())
        assert not any(ended), ended
        return said

    def one(self, cache: Path | None, **more: str) -> str:
        return self.all({"XDG_CACHE_HOME": str(cache or ""), **more})[0]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    started = Server()
    yield started
    assert started.process.stdin and started.process.stdout
    started.process.stdin.close()
    started.process.wait()
    started.process.stdout.close()


@pytest.fixture(scope="module")
def made(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache folder in which two processes have compiled the library at the same time."""
    cache = tmp_path_factory.mktemp("cache")
    first, name = server.all(*[{"XDG_CACHE_HOME": str(cache)}] * 2)
    assert first == name
    assert name.startswith("kernels-")
    assert [path.name for path in (cache / "ppo_pipeline").iterdir()] == [f"{name}.so"]  # and nothing half done
    return cache


def library_in(cache: Path) -> Path:
    (found,) = (cache / "ppo_pipeline").glob("*.so")
    return found


def test_a_second_process_takes_what_the_first_one_made(server: Server, made: Path) -> None:
    """Without compiling: the compiler's answer for --version is all that is asked for."""
    before = library_in(made).stat()
    assert server.one(made) == library_in(made).stem
    after = library_in(made).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert (made / "ppo_pipeline").stat().st_mode & 0o777 == 0o700


def test_without_a_compiler_torch_serves(server: Server, tmp_path: Path) -> None:
    for name in ("", "nonexistent", "'"):
        assert server.one(tmp_path, PATH=str(tmp_path), CC=name) == "torch"
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.parametrize("script", ["#!/bin/sh\nexit 1\n", f"{STAND_IN}exit 1\n", f"{STAND_IN}exit 0\n"])
def test_with_a_compiler_that_fails_torch_serves(server: Server, tmp_path: Path, script: str) -> None:
    """It fails at --version, at compiling, or makes no file and says that all went well."""
    compiler = tmp_path / "compiler"
    compiler.write_text(script)
    compiler.chmod(0o755)
    assert server.one(tmp_path / "cache", CC=str(compiler)) == "torch"
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720])
def test_a_folder_that_others_may_write_is_refused(server: Server, made: Path, tmp_path: Path, mode: int) -> None:
    """Though a good library lies there."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    (tmp_path / "ppo_pipeline").chmod(mode)
    assert server.one(tmp_path) == "torch"
    (tmp_path / "ppo_pipeline").chmod(0o700)
    assert server.one(tmp_path) == library_in(made).stem


def test_without_a_place_to_write_torch_serves(server: Server, tmp_path: Path) -> None:
    """A home folder that is a file: root may write into any folder."""
    (tmp_path / "home").write_text("")
    assert server.one(None, HOME=str(tmp_path / "home")) == "torch"
    assert server.one(tmp_path / "home") == "torch"


def test_the_home_folder_serves_where_no_other_is_named(server: Server, made: Path, tmp_path: Path) -> None:
    """A relative XDG_CACHE_HOME is no name, as its specification says."""
    shutil.copytree(made, tmp_path / ".cache")
    for named in (None, Path("relative")):
        assert server.one(named, HOME=str(tmp_path)) == library_in(made).stem
    assert not Path("relative").exists()


def test_a_library_that_was_cut_off_is_made_anew(server: Server, made: Path, tmp_path: Path) -> None:
    """By a full disk or a crash; half a library would end the process with a bus error."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    path = library_in(tmp_path)
    good = path.read_bytes()
    for kept in (0, 10, 100, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:kept])
        assert not library._is_whole(path)
    assert server.one(tmp_path) == path.stem
    assert library._is_whole(path)


def test_a_whole_file_that_is_no_library_leaves_torch_serving(server: Server, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    library_in(tmp_path).write_bytes(b"text" + hashlib.sha256(b"text").digest())
    assert server.one(tmp_path) == "torch"


def test_another_source_compiler_or_processor_has_another_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = library._compiler()
    assert compiler is not None
    key = library._key(compiler)
    assert library._key(compiler) == key
    for name in ("SOURCES", "HEADERS"):
        added = tmp_path / name
        added.write_text("int added;\n")
        with monkeypatch.context() as patch:
            patch.setattr(library, name, [*getattr(library, name), added])
            assert library._key(compiler) != key
    for name, value in (("FLAGS", ("-O2",)), ("processor", lambda: b"another")):
        with monkeypatch.context() as patch:
            patch.setattr(library, name, value)
            assert library._key(compiler) != key
    assert library._key([*compiler, "-g"]) != key
    assert library._key(compiler) == key
    assert {path for path in NATIVE.iterdir() if path.suffix in (".c", ".h")} == {*library.SOURCES, *library.HEADERS}


def test_switched_off_nothing_is_compiled(server: Server, tmp_path: Path) -> None:
    assert server.one(tmp_path, ALLOW="torch") == "torch"
    assert not list(tmp_path.iterdir())


def test_switched_on_again_it_is_there(server: Server, made: Path) -> None:
    assert server.one(made, ALLOW="torch native") == library_in(made).stem
