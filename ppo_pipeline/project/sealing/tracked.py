"""What sealing asks of DVC: which stages are outdated, and listings of folders in its cache.

A listing is the JSON file by which DVC knows a folder: paths and hashes. Listings are put together of those that
DVC made; no data is read, hashed or copied.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from ...errors import PipelineError
from ...storage.code_fingerprint import is_current
from .index import data_folder


class Tracked:
    """The DVC project of the current folder, locked against other DVC commands."""

    def __init__(self, repo: Any) -> None:
        self.repo, self.cache = repo, repo.cache.local

    def outdated(self) -> dict[str, str]:
        """Return the outdated stages and what of them has changed, by name as `dvc status` prints them.

        To DVC the stage `code` of a project with the installed package is outdated always; here by what it would write.
        """
        from dvc.exceptions import DvcException

        try:
            found = {key: _said(changes) for key, changes in self.repo.status().items()}
        except DvcException as error:
            raise PipelineError(f"`dvc status` fails, nothing was sealed: {error}") from None
        if found.get("code") == "always changed" and is_current(Path("data/code")):
            del found["code"]
        return found

    def round_listing(self, name: str, outs: list[dict[str, Any]]) -> dict[str, Any]:
        """Put the listing of a round's folder into the cache; return its entry for a .dvc file.

        `outs` are the outputs of the round's stages in that folder, as dvc.lock has them.
        """
        from dvc_data.hashfile.hash_info import HashInfo
        from dvc_data.hashfile.tree import Tree

        whole = Tree()
        for out in outs:
            place = PurePosixPath(out["path"]).relative_to(data_folder(name).as_posix()).parts
            if out["md5"].endswith(".dir"):
                for key, _, digest in self._listing(out["md5"], f"dvc pull {out['path']}"):
                    whole.add((*place, *key), None, digest)
            else:
                whole.add(place, None, HashInfo("md5", out["md5"]))
        self._refuse_strangers(name, {"/".join(key) for key, _, _ in whole})
        size, files = sum(out["size"] for out in outs), len(whole)
        return {"md5": self._add(whole), "size": size, "nfiles": files, "hash": "md5"}

    def restore_listings(self, name: str, digest: str, outs: list[dict[str, Any]]) -> None:
        """Put the listings of a sealed round's inner folders (policy, trainer) into the cache again.

        `dvc gc` may have removed them, since the sealed round's own listing holds the same files.
        """
        from dvc_data.hashfile.tree import Tree

        whole = list(self._listing(digest, f"dvc pull {data_folder(name).as_posix()}"))
        for out in (out for out in outs if out["md5"].endswith(".dir")):
            place = PurePosixPath(out["path"]).relative_to(data_folder(name).as_posix()).parts
            inner = Tree()
            for key, _, found in whole:
                if key[: len(place)] == place:
                    inner.add(key[len(place) :], None, found)
            if self._add(inner) != out["md5"]:
                raise PipelineError(
                    f"{out['path']}: its files are not those of {out['md5']} in sealed/stages/{name}.yaml; "
                    "`git checkout sealed` and `dvc checkout` bring both back."
                )

    def keep_file(self, path: Path, digest: str) -> None:
        """Put a file into the cache."""
        from dvc.fs import LocalFileSystem

        self.cache.add(str(path.resolve()), LocalFileSystem(), digest, hardlink=False)

    def _listing(self, digest: str, cure: str) -> Any:
        from dvc_data.hashfile.hash_info import HashInfo
        from dvc_data.hashfile.tree import Tree

        try:
            return Tree.load(self.cache, HashInfo("md5", digest))
        except FileNotFoundError:
            raise PipelineError(f"{digest} is not in DVC's cache; `{cure}` fetches it.") from None

    def _add(self, tree: Any) -> str:
        tree.digest()
        self.cache.add(tree.path, tree.fs, tree.oid, hardlink=False)
        return str(tree.oid)

    def _refuse_strangers(self, name: str, known: set[str]) -> None:
        folder = data_folder(name)
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        if found - known:
            raise PipelineError(
                f"{folder}: {sorted(found - known)[0]} is no stage's output, and nothing else can be "
                "in the folder of a sealed round; move it elsewhere."
            )


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
