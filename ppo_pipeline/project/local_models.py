"""Local models: `sources` of params.yaml names each one's folder or file, so that DVC watches it.

Stage `source` writes the hashes of one's files to data/sources/<name>/files.json, whenever DVC finds that something
there changed. On those of the base model the stage `base` depends. Stage `settings` writes those of each round's reward
models to data/models/, on which the stages that load these models depend. So nothing more reruns for a file that was
touched, or is not loaded.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import PipelineError
from ..models.packaged import PACKAGED
from ..settings.params import ROOT, Params
from ..settings.reward_model_sections import TRAINED_HERE
from ..storage.files import read_json, sha256_of, write_json
from .paths import Paths

BASE = "base"  # the name of base.model in `sources`; those of reward models are free
SOURCES, MODELS, RECORD = Paths().sources, Paths().models, "files.json"
PLAIN = re.compile(r"(\.{0,2}/)?[A-Za-z_][A-Za-z0-9_./-]*")


def file_hashes(path: Path) -> dict[str, str]:
    """Return SHA-256 by name of a model's file or files; not of hidden ones, texts, or a training's checkpoints."""
    if path.is_file():
        return {path.name: sha256_of(path)}
    if not path.is_dir():
        raise PipelineError(f"params.yaml: sources: no folder or file '{path}'.")
    found = {}
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path)
        aside = any(part.startswith((".", "checkpoint-")) or part == "__pycache__" for part in name.parts)
        if file.is_file() and not aside and file.suffix != ".md":
            found[name.as_posix()] = sha256_of(file)
    return found


def write_record(record: Path, model: Path) -> int:
    """Write data/sources/<name>/files.json; return how many files the model has."""
    hashes = file_hashes(model)
    write_json(record, hashes)
    return len(hashes)


def check_sources(params: Params) -> None:
    """Raise PipelineError, with the line to write, unless `sources` names each local model, and nothing else."""
    models = list(_models(params))
    known = {key for _, name, model in models for key in _named(params, params.sources, name, model)}
    wanted = {key: path for key, path in params.sources.items() if key in known}
    why: list[str] = []
    for place, name, model in models:
        path = Path(model).expanduser()
        if not _named(params, wanted, name, model) and _is_local(name, model):
            wanted[_free_name(params, name, wanted)] = str(path) if model.startswith("~") else model
            kind = "folder" if path.is_dir() or model.startswith(TRAINED_HERE) else "file"
            why.append(f"{place} '{model}' is a local {kind}; so that dvc repro notices when its weights change")
    unused = [key for key in params.sources if key not in wanted]
    if unused:
        why.append(f"sources.{unused[0]}: no model of these settings is '{params.sources[unused[0]]}'")
    if why:
        shown = ", ".join(f"{key}: {_yaml(path)}" for key, path in wanted.items())
        raise PipelineError(f"params.yaml: {why[0]}, write `sources: {{{shown}}}`.")


def model_texts(params: Params, folder: Path = SOURCES) -> Iterator[tuple[str, str]]:
    """Yield path within data/models/ and text of each file; a model that is not local has no hashes there."""
    named = (key for key in params.sources if key != BASE)
    records = {key: read_json(folder / key / RECORD, f"`dvc repro source@{key}`") for key in named}
    for name in [ROOT, *params.rounds]:
        models = {c.name: c.loaded_model() for c in params.of_round(name).reward.components}
        keys = {name: _named(params, params.sources, name, model) for name, model in models.items() if model}
        yield f"rewards/{name}.json", _text({name: records[found[0]] for name, found in keys.items() if found})


def settle_records(params: Params, folder: Path = SOURCES) -> None:
    """Remove the records of models that `sources` no longer names: no stage writes them any more.

    Write one that is missing, where its model is here: with --allow-missing DVC skips its stage.
    """
    for name, model in params.sources.items():
        if not (folder / name / RECORD).is_file() and Path(model).exists():
            write_record(folder / name / RECORD, Path(model))
    for path in folder.glob(f"*/{RECORD}"):
        if path.parent.name not in params.sources:
            path.unlink()
            if path.parent.name != BASE:  # a dependency of the stage `base`, which is always there
                path.parent.rmdir()


def _models(params: Params) -> Iterator[tuple[str, str | None, str]]:
    """Yield where it stands, name (None: the base model) and model of `base` and of each reward model."""
    yield "base.model:", None, params.base.model
    for name in [ROOT, *params.rounds]:
        if name == ROOT or "components" in params.rounds[name].reward:
            place = "reward" if name == ROOT else f"rounds.{name}.reward"
            for component in params.of_round(name).reward.components:
                if model := component.loaded_model():
                    yield f"{place} '{component.name}': model", component.name, model


def _named(params: Params, sources: dict[str, str], name: str | None, model: str) -> list[str]:
    """Return the keys of a map of sources that name this model; `base` is base.model's, and no round's name is one."""
    taken = (ROOT, *params.all_rounds)
    same = [key for key, path in sources.items() if Path(path) == Path(model).expanduser() and key not in taken]
    return [key for key in same if (key == BASE) == (name is None)]


def _is_local(name: str | None, model: str) -> bool:
    if name is None:  # as models/base.py reads it
        return model not in PACKAGED and (model.endswith(".gguf") or Path(model).is_dir())
    return Path(model).expanduser().is_dir() or model.startswith(TRAINED_HERE)


def _free_name(params: Params, name: str | None, wanted: dict[str, str]) -> str:
    """Return a key for a model: `base`, or the component's name, with a number where that is taken."""
    taken, found, number = {BASE, ROOT, *params.all_rounds, *wanted}, name or "", 1
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    return found or BASE


def _yaml(path: str) -> str:
    plain = PLAIN.fullmatch(path) and path.lower() not in ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
    return path if plain else json.dumps(path, ensure_ascii=False)


def _text(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"
