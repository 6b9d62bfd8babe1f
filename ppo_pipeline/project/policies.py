"""A round's policy, found and loaded, for commands and for Python."""

from pathlib import Path
from typing import Any

from ..errors import PipelineError, nearest
from ..settings.params import ROOT, Params
from .paths import Paths

BASE = Paths().base


def policy_folder(params: Params, name: str, average: bool = False, root: Path = Path()) -> Path:
    """Return the policy folder of round `name`, or that of the average of the last rounds' policies.

    root: the project's folder. Raises PipelineError where the round is unknown or not computed.
    """
    known = [ROOT, *params.all_rounds]
    if name not in known:
        raise PipelineError(f"params.yaml: no round '{name}'.{nearest(name, known)}")
    paths = Paths(name, root=root)
    folder = paths.average if average else paths.policy
    if average and name == ROOT:
        raise PipelineError(f"{ROOT}: the untrained policy has no average; name a trained round.")
    if not folder.is_dir():
        stage = "init" if name == ROOT else f"update@{name}"
        makes = "" if name in params.all_rounds and name not in params.rounds else f"`dvc repro {stage}` makes it, "
        raise PipelineError(f"{folder}: not here; {makes}`dvc pull` fetches it.")
    if average and not (folder / "adapter_config.json").is_file():
        raise PipelineError(
            f"{folder}: {name} was trained with update.average_rounds: 1, which keeps no average; leave out --average, "
            "or set that to 2 or more and `dvc repro`."
        )
    return folder


def base_folder(params: Params, root: Path = Path()) -> Path:
    """Return the folder of the model that the policies start from; PipelineError where it is not computed."""
    folder = Paths(start=params.start, root=root).base
    if not (folder / "config.json").is_file():
        stage = "base" if params.start == BASE.as_posix() else f"sft@{folder.name}"
        raise PipelineError(f"{folder}: no model here; `dvc repro {stage}` makes it, `dvc pull` fetches it.")
    return folder


def params_of_round(params: Params, name: str) -> Params:
    """Return the settings with those that round `name`, be it sealed, has for itself."""
    return params.model_copy(update={"rounds": params.all_rounds}).of_round(name)


def merged_model(base: Path, folder: Path, device: str = "cpu") -> Any:
    """Return the policy at `folder` as a plain transformers model, its LoRA merged, in its base's own dtype."""
    import torch

    from ..models.checkpoint import load_merged

    return load_merged(base, folder, torch.device(device), saved_dtype(base))


def saved_dtype(base: Path) -> "torch.dtype":  # type: ignore[name-defined]  # noqa: F821
    """Return the dtype that the weights of the model at `base` are saved in."""
    import torch
    from transformers import AutoConfig

    from ..models.loading import read_source
    from ..models.trust import code_allowed

    trusted = code_allowed(read_source(base))
    dtype = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=trusted).dtype
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype or torch.float32
