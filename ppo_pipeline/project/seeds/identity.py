"""What the numbers of a seed follow from besides the seed: settings, code, prompts, reward functions, local models."""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import PipelineError, nearest
from ...settings.files import differences, flattened, told
from ...settings.params import SEALED, Params, load_params
from ...storage.files import sha256_of
from ..local_models import check_sources, file_hashes
from ..plan.would_be import code_files

PARAMS = Path("params.yaml")
FOLDERS = ("reward_functions", SEALED.parent.name)


def write_overrides(path: Path, overrides: Sequence[str]) -> None:
    """Write settings given as `dvc exp run -S` takes them into a params.yaml; PipelineError for what it refuses."""
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides

    for override in overrides:
        try:
            apply_overrides(str(path), [override])
        except DvcException:
            name = override.partition("=")[0]
            close = nearest(name, list(flattened(load_params(path, Path(SEALED)).model_dump(by_alias=True))))
            raise PipelineError(
                f"-S {override}: no such setting, or no value for DVC.{close} docs/experiments.md has examples."
            ) from None


def params_with(overrides: Sequence[str]) -> Params:
    """Return the settings in force with `overrides`, checked; params.yaml stays as it is."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, PARAMS)
        path.write_bytes(PARAMS.read_bytes())
        write_overrides(path, overrides)
        try:
            params = load_params(path, Path(SEALED))
        except PipelineError as error:
            raise PipelineError(str(error.message).replace(str(path), str(PARAMS))) from None
    check_sources(params)
    return params


def settings_of(params: Params) -> dict[str, Any]:
    """Return the settings that decide numbers, flattened: all but the seed and how many workers do it."""
    settings = params.model_dump(by_alias=True, exclude={"seed": True, "compute": {"engine", "workers"}})
    return flattened(settings)


def identity(params: Params) -> str:
    """Return a hash of all that decides the numbers of a run of this project but its seed: the same, the same numbers.

    Versions of libraries and the machine are not in it, as DVC has no hash of them either.
    """
    paths = [Path(name) for name in (*params.data_files, *FOLDERS)]
    parts = {
        "settings": settings_of(params),
        "code": code_files(),
        "files": {str(path): _hashes(path) for path in paths},
        "models": {name: file_hashes(Path(path).expanduser()) for name, path in params.sources.items()},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def what_differs(before: Params, now: Params) -> str:
    """Return the settings that differ, with both values; code or data where none does."""
    found = differences(settings_of(before), settings_of(now))
    changes = [f"{name} {told(a)} -> {told(b)}" for name, (a, b) in found.items()]
    return ", ".join(changes[:5]) + (" ..." if len(changes) > 5 else "") or "code, prompts or models"


def _hashes(path: Path) -> dict[str, str]:
    """Return SHA-256 by name of a file, or of what stages read in a folder; none where it is missing."""
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    hidden = ("__pycache__", ".")
    kept = [f for f in files if f.is_file() and not any(part.startswith(hidden) for part in f.relative_to(path).parts)]
    return {file.as_posix(): sha256_of(file) for file in kept}
