"""Load a round's policy for the commands that use one."""

from pathlib import Path
from typing import Any

from ..errors import PipelineError, nearest
from ..project.paths import Paths
from ..settings.params import ROOT, Params

BASE = Paths().base


def policy_folder(params: Params, name: str) -> Path:
    """Return the policy folder of round `name`; PipelineError where it is unknown or not computed."""
    known = [ROOT, *params.all_rounds]
    if name not in known:
        raise PipelineError(f"params.yaml: no round '{name}'.{nearest(name, known)}")
    folder = Paths(name).policy
    if not folder.is_dir():
        stage = "init" if name == ROOT else f"update@{name}"
        makes = "" if name in params.all_rounds and name not in params.rounds else f"`dvc repro {stage}` makes it, "
        raise PipelineError(f"{folder}: not here; {makes}`dvc pull` fetches it.")
    return folder


def load_base(params: Params) -> tuple[Any, Any]:
    """Return the base model on the device of `compute`, and its tokenizer."""
    from ..compute.machine import set_up
    from ..models.loading import load_model, load_tokenizer

    device, dtype = set_up(params.compute)
    return load_model(BASE, device, dtype), load_tokenizer(BASE)
