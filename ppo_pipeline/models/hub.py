"""Bring the files of a model hub's repository into the hub's cache on this machine: the one place that asks a hub."""

import json
from pathlib import Path

from ..errors import PipelineError

SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def fetch(name: str, revision: str | None, patterns: list[str], where: str) -> Path:
    """Return the folder with those files of the repository that fit one of `patterns`, at `revision`.

    Models are then read as a folder, so that nothing but this revision is read: transformers, given a hub id, would
    ask a conversion service for weights that are not safetensors, and follow an adapter to the model that it names.
    Raises PipelineError, which says so where HF_HUB_OFFLINE forbids the network.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:  # of several libraries: no such model, no network, no space
        at = f" at '{revision}'" if revision else ""
        raise PipelineError(f"{where}: the hub model '{name}'{at} cannot be fetched: {error}{offline()}") from None


def fetch_model(name: str, revision: str | None, code: bool, where: str) -> Path:
    """Return the folder of a language model: small files, the safetensors that it is made of, and `code` if wanted."""
    small = [*SMALL_FILES, "*.py"] if code else [*SMALL_FILES]
    folder = fetch(name, revision, small, where)
    weights = [WEIGHTS]
    if (folder / INDEX).is_file():
        try:
            weights = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise PipelineError(f"{where}: the hub model '{name}': {INDEX} is damaged.") from None
    folder = fetch(name, revision, [*small, *weights], where)
    for file in weights:
        if not (folder / file).is_file():
            raise PipelineError(
                f"{where}: the hub model '{name}' has no {file} here; weights of other kinds, such as pickled ones "
                f"(pytorch_model.bin), are not read.{offline()}"
            )
    return folder


def offline() -> str:
    """Return what to do where offline mode is on, empty where it is off."""
    from huggingface_hub import is_offline_mode

    if not is_offline_mode():
        return ""
    return (
        " HF_HUB_OFFLINE is set, so nothing is downloaded: unset it for the first run, or give a folder that has the "
        "model."
    )
