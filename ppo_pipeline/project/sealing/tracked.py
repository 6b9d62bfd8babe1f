"""What sealing asks of DVC: which stages are outdated, and to keep a file in its cache."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ...errors import PipelineError
from ...storage.code_fingerprint import is_current
from ..dvc_at_work import told
from ..paths import Paths


class Tracked:
    """The DVC project of the current folder, locked against other DVC commands."""

    def __init__(self, repo: Any) -> None:
        self.repo = repo

    def outdated(self) -> dict[str, str]:
        """Return the outdated stages and what of them has changed, by name as `dvc status` prints them.

        To DVC the stage `code` of a project with the installed package is outdated always; here by what it would write.
        """
        from dvc.exceptions import DvcException

        try:
            found = {key: _said(changes) for key, changes in self.repo.status().items()}
        except DvcException as error:
            raise PipelineError(f"`dvc status` fails, nothing was sealed: {told(error)}") from None
        if found.get("code") == "always changed" and is_current(Paths().code_folder):
            del found["code"]
        return found

    def keep_file(self, path: Path, digest: str) -> None:
        """Put a file into the cache."""
        from dvc.fs import LocalFileSystem

        self.repo.cache.local.add(str(path.resolve()), LocalFileSystem(), digest, hardlink=False)


@contextmanager
def dvc_project() -> Iterator[Tracked]:
    """Yield the DVC project of the current folder, locked; PipelineError where there is none or DVC is at work."""
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo, lock_repo

    try:
        repo = Repo()
    except DvcException as error:
        raise PipelineError(f"{error}; run from the project's top folder.") from None
    with ExitStack() as stack:
        stack.enter_context(repo)
        try:
            stack.enter_context(lock_repo(repo))
        except LockError as error:
            raise PipelineError(f"Another DVC command is at work here: {error}") from None
        yield Tracked(repo)


def _said(changes: list[Any]) -> str:
    """Return what has changed of a stage as text: data/base modified, ..."""
    parts = []
    for change in changes:
        if isinstance(change, dict):
            for kind in change.values():
                parts += [f"{what} {how}" for what, how in kind.items()] if isinstance(kind, dict) else [str(kind)]
        else:
            parts.append(str(change))
    return ", ".join(parts)
