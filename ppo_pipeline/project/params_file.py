"""Writing params.yaml: whole or not at all, and only what can be read."""

from pathlib import Path

from ..errors import PipelineError
from ..settings.params import SEALED, load_params
from ..storage.files import atomic_file


def write_checked(path: Path, text: str, settled: bool = True) -> None:
    """Replace params.yaml, once its new text has been read and checked as params.yaml is.

    Raises PipelineError, and leaves the file as it was, where the new text is wrong.
    """
    target = path.resolve()  # a link stays a link
    with atomic_file(target) as partial:
        partial.write_bytes(text.encode("utf-8"))
        partial.chmod(target.stat().st_mode)
        try:
            load_params(partial, path.parent / SEALED, settled)
        except PipelineError as error:
            raise PipelineError(str(error.message).replace(str(partial), str(path))) from None
