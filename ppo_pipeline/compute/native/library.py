"""Compile the C files here once for each machine, where it has a C compiler, and load them; torch serves elsewhere."""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = sorted(Path(__file__).parent.glob("*.c"))
HEADERS = sorted(Path(__file__).parent.glob("*.h"))
# No -ffast-math: it would let infinities and NaN pass for numbers. OpenMP's functions are those that torch has
# loaded, so that both use the same threads; hence no -fopenmp when linking.
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-fPIC")
VARIANTS = {"bf16": ("-DHALF",), "fp32": ()}
COMPILE_SECONDS = 120.0
DIGEST = hashlib.sha256().digest_size

_enabled = True


def allow(native: bool) -> None:
    """Say whether this process may use the kernels; from compute.kernels."""
    global _enabled
    _enabled = native


def kernels() -> ctypes.CDLL | None:
    """Return the library, None where it is switched off or cannot be made: then torch's operations serve."""
    return _library() if _enabled else None


def in_use() -> str:
    """Return what logs/ say: native, or torch."""
    return "native" if kernels() else "torch"


def identity() -> str:
    """Return what decides how the kernels round: the library's key, or that torch serves."""
    library = kernels()
    return Path(library._name).stem if library else "torch"


@functools.cache
def _library() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        compiler = _compiler()
        if compiler is None:
            return None
        path = cache_folder() / f"kernels-{_key(compiler)}.so"
        if not _is_whole(path):
            _compile(compiler, path)
        return ctypes.CDLL(str(path), mode=os.RTLD_NOW)
    except (OSError, RuntimeError, ValueError, subprocess.SubprocessError):  # no home folder, no words in CC, ...
        return None


def _compiler() -> list[str] | None:
    """Return the C compiler's command: $CC, else cc, gcc or clang."""
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        command = shlex.split(name)
        if command and shutil.which(command[0]):
            return command
    return None


def cache_folder() -> Path:
    """Return this user's folder for what is made once on a machine; nobody else may write there, since it is code."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    folder = (cache if cache.is_absolute() else Path.home() / ".cache") / "ppo_pipeline"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} can be written by others")
    return folder


def _key(compiler: list[str]) -> str:
    """Return a hash of all that the library depends on: source, flags, compiler and processor."""
    told = subprocess.run([*compiler, "--version"], capture_output=True, timeout=COMPILE_SECONDS, check=True).stdout
    source = [path.read_bytes() for path in (*SOURCES, *HEADERS)]
    settings = repr((compiler, FLAGS, VARIANTS)).encode()
    return hashlib.sha256(b"\0".join([*source, settings, told, processor()])).hexdigest()[:24]


def processor() -> bytes:
    """Return the processor's name and instructions: a home folder may serve several machines."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    kinds = ("model name", "flags", "Features", "CPU part")
    first = {line.split(":")[0].strip(): line for line in reversed(lines) if ":" in line}
    return "\n".join([platform.machine(), *(first[k] for k in kinds if k in first)]).encode()


def _compile(compiler: list[str], target: Path) -> None:
    """Make the library; it appears whole, under its name, and ends with its own hash, which a loader ignores."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        commands, objects = [], []
        for name, defines in VARIANTS.items():
            for source in SOURCES:
                objects.append(str(Path(folder, f"{source.stem}-{name}.o")))
                commands.append([*compiler, *FLAGS, *defines, "-c", str(source), "-o", objects[-1]])
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        made = Path(folder, "kernels.so")
        _run([*compiler, "-shared", *objects, "-o", str(made), "-lm"])
        code = made.read_bytes()
        made.write_bytes(code + hashlib.sha256(code).digest())
        made.replace(target)


def _is_whole(path: Path) -> bool:
    """Tell whether the library is there as it was written: loading half of one ends the process."""
    if not path.is_file():
        return False
    content = path.read_bytes()
    return hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]


def _run(command: list[str]) -> None:
    subprocess.run(command, capture_output=True, timeout=COMPILE_SECONDS, check=True)
