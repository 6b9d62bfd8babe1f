"""Find a reward model's files, on disk or on the hub, and load them without running what they bring along."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import PipelineError
from ..models.hub import SMALL_FILES, fetch, offline
from ..models.trust import check_folder

if TYPE_CHECKING:
    from .types.model import ModelComponent

SAFE, PICKLED = "*.safetensors", "pytorch_model*.bin"


def load_classifier(settings: "ModelComponent", device: Any, dtype: Any) -> tuple[Any, Any]:
    """Return the sequence classification model in evaluation mode, and its tokenizer.

    A hub model is first brought into the hub's cache, at `revision`, and then read as a folder (models/hub.py).
    Raises PipelineError for a model that is not there, has no classification head, or has only pickled weights where
    `pickled_weights` is false.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    from ..models.loading import readable

    where = f"reward '{settings.name}': model"
    folder = local_folder(settings, where) or fetch(settings.model, settings.revision, [*SMALL_FILES, SAFE], where)
    check_folder(folder, where)
    safe = _has_safetensors(settings, folder, where)
    logging.disable_progress_bar()
    with readable(f"{where}: '{settings.model}' cannot be loaded"):
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=safe, weights_only=True,
            trust_remote_code=False, output_loading_info=True,
        )  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    absent = sorted(info["missing_keys"])
    if absent:
        raise PipelineError(
            f"{where}: '{settings.model}' is no trained classifier: it has no weights for {', '.join(absent[:3])}"
            f"{', ...' if len(absent) > 3 else ''}."
        )
    limit = getattr(model.config, "max_position_embeddings", None)
    if isinstance(limit, int) and 0 < limit < settings.max_tokens:
        raise PipelineError(f"{where}: max_tokens is {settings.max_tokens}, the model has {limit} positions.")
    model.requires_grad_(False)
    return model.to(device).eval(), tokenizer


def member_folders(model: str, where: str) -> list[Path]:
    """Return the folders 1, 2, ... of an ensemble's models; PipelineError where they are not there."""
    folder = Path(model).expanduser()
    found = sorted((path for path in folder.glob("*") if path.name.isdigit()), key=lambda path: int(path.name))
    if [path.name for path in found] != [str(number) for number in range(1, len(found) + 1)] or not found:
        one = (folder / "config.json").is_file()
        raise PipelineError(
            f"{where}: '{model}' {'is a single model; set it to null' if one else 'has no folders 1, 2, ... in it'}."
        )
    return found


def local_folder(settings: "ModelComponent", where: str) -> Path | None:
    """Return the model's folder, None for one of the hub; PipelineError where the name can be neither."""
    name = settings.model
    folder = Path(name).expanduser()
    if folder.is_dir():
        if settings.revision is not None:
            raise PipelineError(f"{where}: '{name}' is a folder; revision must be null.")
        if not (folder / "config.json").is_file():
            several = " It has models 1, 2, ...: set ensemble to mean or worst." if (folder / "1").is_dir() else ""
            raise PipelineError(f"{where}: the folder '{name}' has no config.json: no model there.{several}")
        return folder
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise PipelineError(f"{where}: '{name}' is no folder here, and no hub id of the form owner/name.")
    return None


def _has_safetensors(settings: "ModelComponent", folder: Path, where: str) -> bool:
    """Tell whether to read safetensors (True) or pickled weights (False), which may be allowed."""
    import torch

    if any(folder.glob(SAFE)):
        return True
    if not settings.pickled_weights:
        raise PipelineError(
            f"{where}: '{settings.model}' has no safetensors file. If it has pytorch_model.bin, set pickled_weights: "
            "true to read that; only tensors are taken from it."
        )
    if tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < (2, 10):
        raise PipelineError(
            f"{where}: torch {torch.__version__} is not safe to read pickled weights with (CVE-2026-24747); "
            "install torch 2.10 or newer."
        )
    on_hub = not Path(settings.model).expanduser().is_dir()
    if on_hub:
        fetch(settings.model, settings.revision, [*SMALL_FILES, PICKLED], where)
    if not any(folder.glob(PICKLED)):
        raise PipelineError(
            f"{where}: '{settings.model}' has neither a safetensors file nor pytorch_model.bin."
            f"{offline() if on_hub else ''}"
        )
    return False
