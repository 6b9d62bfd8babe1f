"""Which stages a `dvc repro` would run, and why: DVC's own status, followed through the graph.

Stages are looked at in the order in which DVC runs them. A stage whose dependencies are all known is compared with
dvc.lock as DVC does, and looked up in DVC's cache of earlier runs, whose outputs are then known too. What is behind a
stage that will run cannot be known: it follows, unless that stage's outputs come out as they were. Nothing is written.
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from ...errors import PipelineError
from ...settings.params import Params
from ...storage.code_fingerprint import is_current
from ..dvc_at_work import told
from ..local_models import MODELS, check_sources
from .would_be import CODE, code_files, md5, model_files, settings_files, what_changed

WRITERS = ("code", "settings")  # what these write is known beforehand


@dataclass(frozen=True)
class Rerun:
    """A stage that `dvc repro` would not skip.

    kind: "runs"; "follows": runs unless what it reads comes out as it was; "cached": DVC restores it, without a run.
    why: what changed, or the stages that it follows.
    """

    stage: str
    kind: str
    why: list[str] = field(default_factory=list)


def reruns(repo: Any, params: Params) -> list[Rerun]:
    """Return the stages that `dvc repro` would not skip, in its order; `repo` is DVC's, and is of no use afterwards.

    Raises PipelineError where DVC cannot read the pipeline, or `sources` does not fit the models.
    """
    import networkx
    from dvc.exceptions import DvcException

    check_sources(params)
    try:
        status = repo.status()
        if status.get("code") == ["always changed"] and is_current(
            CODE
        ):  # with the installed package DVC says so always
            del status["code"]
        outlook = _Outlook(repo, params, status)
        stages = [stage for stage in networkx.dfs_postorder_nodes(repo.index.graph) if stage.cmd]
        return [found for stage in stages if (found := outlook.of(stage)) is not None]
    except DvcException as error:
        raise PipelineError(f"`dvc status` fails: {told(error)}") from None


class _Outlook:
    def __init__(self, repo: Any, params: Params, status: dict[str, list[Any]]) -> None:
        self.repo, self.status = repo, status
        self.texts: dict[str, str] = {}  # of the files that `code` and `settings` would write
        if "code" in status:
            self.texts |= code_files()
        if "code" in status or "settings" in status:
            self.texts |= settings_files(params) | model_files(params)
        self.recomputed: dict[str, str] = {}  # output: the stage that will write it anew
        self.restored: dict[str, str] = {}  # output: its hash in the cache of earlier runs
        self.inside: dict[str, list[str]] = {}  # folder: the stages by which something in it becomes another

    def of(self, stage: Any) -> Rerun | None:
        """Return what becomes of a stage; those before it have been looked at."""
        name = stage.addressing
        changed, command = self._said(name)
        why, follows = list(command), []
        known: dict[str, str] = {}
        for dep in stage.deps:
            path, before = _path(dep), dep.hash_info.value if dep.hash_info else None
            writers = [self.recomputed[out] for out in _upwards(path) if out in self.recomputed]
            writers += self.inside.get(path, [])
            if path in self.texts:
                known[path] = md5(self.texts[path])
                if known[path] != before:
                    why += what_changed(path, self._text(path, before), self.texts[path])
            elif writers:
                follows += writers
            elif (digest := self._restored(path)) is not None:
                known[path] = digest
                if digest != before:
                    why.append(f"{path} is another one of the cache")
            elif path in changed:
                why += changed[path]
        first = not any(out.hash_info for out in stage.outs)
        if not why and not follows and not self._outs_changed(name) and not first:
            return None
        same = not why and not first
        outs = None
        if not follows and not any(out.persist for out in stage.outs):  # of such a stage DVC restores no run
            outs = self._cached(stage) if same else self._of_earlier_run(stage, known, set(changed))
        if outs is not None:
            self.restored |= outs
            was = {_path(out): out.hash_info.value for out in stage.outs if out.hash_info}
            self._enter(name, [path for path, digest in outs.items() if was.get(path) != digest])
            gone = "its outputs are not here or were edited"
            return Rerun(name, "cached", ["as in an earlier run" if first else reason for reason in why or [gone]])
        if name not in WRITERS:
            self.recomputed |= {_path(out): name for out in stage.outs}
            self._enter(name, [_path(out) for out in stage.outs])
        if name.startswith("source@"):  # then `settings` may write other hashes
            self.texts = {
                path: text for path, text in self.texts.items() if not path.startswith(f"{MODELS.as_posix()}/")
            }
            self.recomputed[MODELS.as_posix()] = "settings"
        if first:
            return Rerun(name, "runs", ["has not run yet"])
        if why or not follows:
            return Rerun(name, "runs", list(dict.fromkeys(why)) or ["its outputs are not in DVC's cache"])
        return Rerun(name, "follows", list(dict.fromkeys(follows)))

    def _said(self, name: str) -> tuple[dict[str, list[str]], list[str]]:
        """Return what `dvc status` says of a stage: its changed dependencies by path, and what else changed."""
        deps: dict[str, list[str]] = {}
        more: list[str] = []
        for entry in self.status.get(name, []):
            if isinstance(entry, str):
                more.append(entry)
            for path, how in (entry.get("changed deps", {}) if isinstance(entry, dict) else {}).items():
                each = [f"{what} {how[what]}" for what in how] if isinstance(how, dict) else [how]
                deps[Path(path).as_posix()] = [f"{Path(path).as_posix()}: {', '.join(each)}"]
        return deps, more

    def _outs_changed(self, name: str) -> bool:
        return any(isinstance(entry, dict) and "changed outs" in entry for entry in self.status.get(name, []))

    def _restored(self, path: str) -> str | None:
        """Return the hash of a path that DVC will restore: an output, or a file within one."""
        out = next((out for out in _upwards(path) if out in self.restored), None)
        if out is None or out == path:
            return self.restored.get(path)
        from dvc_data.hashfile.hash_info import HashInfo
        from dvc_data.hashfile.tree import Tree

        listing = Tree.load(self.repo.cache.local, HashInfo("md5", self.restored[out]))
        found = listing.get(tuple(path.removeprefix(f"{out}/").split("/")))
        return found[1].value if found else None

    def _enter(self, name: str, outs: list[str]) -> None:
        for out in outs:
            for folder in _upwards(out)[1:]:
                self.inside.setdefault(folder, []).append(name)

    def _cached(self, stage: Any) -> dict[str, str] | None:
        """Return the outputs of dvc.lock with their hashes where all are in the cache; None where DVC would run it."""
        cached = all(out.use_cache and not out.changed_cache() for out in stage.outs)
        return {_path(out): out.hash_info.value for out in stage.outs} if cached else None

    def _of_earlier_run(self, stage: Any, known: dict[str, str], changed: set[str]) -> dict[str, str] | None:
        """Return the outputs of an earlier run on the same dependencies, as DVC's cache has them; None without one.

        known: hashes of dependencies that will lie there by then. changed: those that now differ from dvc.lock.
        """
        from dvc_data.hashfile.hash_info import HashInfo
        from dvc_data.hashfile.meta import Meta

        for dep in stage.deps:
            path = _path(dep)
            if path in known:
                dep.hash_info, dep.meta = HashInfo("md5", known[path]), Meta()  # the old meta repeats the old hash
            elif path in changed or not dep.hash_info:
                if not dep.exists:
                    return None
                dep.save()  # hashes what lies there, in memory
            dep.get_hash = partial(getattr, dep, "hash_info")  # not of what lies there now
        entry = self.repo.stage_cache._load(stage)  # what `dvc repro` asks; DVC has no public way to
        if not entry or not self.repo.stage_cache._create_stage(entry, wdir=stage.wdir).outs_cached():
            return None
        return {out["path"]: out["md5"] for out in entry["outs"]}

    def _text(self, path: str, digest: str | None) -> str | None:
        """Return the text that a file of code or settings had when the stage ran, where it is still to be had."""
        cached = [Path(self.repo.cache.local.oid_to_path(digest))] if digest else []
        for place in [Path(path), *cached]:
            if place.is_file() and md5(text := place.read_text(encoding="utf-8")) == digest:
                return text
        return None


def _path(entry: Any) -> str:
    return Path(entry.def_path).as_posix()


def _upwards(path: str) -> list[str]:
    """Return a path and the folders that it is in."""
    return [path, *(folder.as_posix() for folder in PurePosixPath(path).parents)]
