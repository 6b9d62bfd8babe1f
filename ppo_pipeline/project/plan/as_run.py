"""The settings and metrics of a round as it ran, whatever params.yaml says today."""

import json
from pathlib import Path
from typing import Any

from ...errors import PipelineError
from ...settings.files import flattened
from ...settings.params import ROOT, Params
from ...settings.yaml_file import read_map
from ..learning_curve import merged, round_metrics, sealed_metrics
from ..paths import Paths
from ..sealing import lock_text
from ..sealing.index import stages_file
from .would_be import SETTINGS, md5

DERIVED = (
    "round",
    "parent",
    "depth",
    "threads",
    "temperature",
    "max_new_tokens",
    "share_prefix",
    "whiten_minibatches",
    "max_prompt_tokens",
    "stop_tokens",
    "sampling",
    "critic_alone",
    "overlong_limit",
    "tells_correct",
)


def metrics_of(params: Params, name: str, root: Path = Path()) -> dict[str, Any]:
    """Return the metrics of a round's stages, by name; empty where none has run. root: the project's folder."""
    if name == ROOT or name in params.rounds:
        return round_metrics(Paths(root=root).stage_metrics, name)
    return merged(sealed_metrics(Paths(root=root).sealed_metrics, name))


def settings_of(params: Params, name: str) -> dict[str, Any] | None:
    """Return the settings with which a round's stages ran, flattened; None where one of them is no longer to be had.

    dvc.lock, or a sealed round's copy of its entries, has the hash of each stage's settings; the text lies in
    data/settings/ or in DVC's cache.
    """
    found: dict[str, Any] = {}
    for entry in lock_entries(params, name).values():
        for dep in entry.get("deps", []):
            if dep["path"].startswith(f"{SETTINGS.as_posix()}/"):
                text = _text(Path(dep["path"]), dep["md5"])
                if text is None:
                    return None
                found |= {key: value for key, value in json.loads(text).items() if key not in DERIVED}
    return flattened(found)


def lock_entries(params: Params, name: str) -> dict[str, Any]:
    """Return the entries of dvc.lock of a round's stages, by the stage as dvc.lock names it."""
    if name not in params.rounds and name != ROOT:
        path = stages_file(name)
        if not path.is_file():
            raise PipelineError(f"{path}: no such file, though {name} is sealed; git has it.")
        entries: dict[str, Any] = read_map(path, "entries of dvc.lock").get("stages") or {}
        return entries
    blocks = lock_text.read()
    wanted = {"baseline": blocks["baseline"]} if "baseline" in blocks else {}
    blocks = wanted if name == ROOT else lock_text.of_round(blocks, name)
    return lock_text.parsed(blocks) if blocks else {}


def _text(path: Path, digest: str) -> str | None:
    """Return the text with this hash, from the file at `path` or from DVC's cache."""
    if path.is_file() and md5(text := path.read_text(encoding="utf-8")) == digest:
        return text
    from dvc.exceptions import DvcException
    from dvc.repo import Repo  # slow to import, and seldom needed

    try:
        cached = Path(Repo().cache.local.oid_to_path(digest))
    except DvcException:
        return None
    return cached.read_text(encoding="utf-8") if cached.is_file() else None
