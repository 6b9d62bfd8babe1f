"""Load a round's policy for the commands that use one."""

from pathlib import Path

from ..errors import PipelineError, nearest
from ..project.paths import Paths
from ..settings.params import ROOT, Params

BASE = Paths().base


def policy_folder(params: Params, name: str, average: bool = False) -> Path:
    """Return the policy folder of round `name`, or that of the average of the last rounds' policies.

    Raises PipelineError where it is unknown or not computed.
    """
    known = [ROOT, *params.all_rounds]
    if name not in known:
        raise PipelineError(f"params.yaml: no round '{name}'.{nearest(name, known)}")
    folder = Paths(name).average if average else Paths(name).policy
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


def base_folder(params: Params) -> Path:
    """Return the folder of the model that the policies start from; PipelineError where it is not computed."""
    folder = Paths(start=params.start).base
    if not (folder / "config.json").is_file():
        stage = "base" if folder == BASE else f"sft@{folder.name}"
        raise PipelineError(f"{folder}: no model here; `dvc repro {stage}` makes it, `dvc pull` fetches it.")
    return folder


def params_of_round(params: Params, name: str) -> Params:
    """Return the settings with those that round `name`, be it sealed, has for itself."""
    return params.model_copy(update={"rounds": params.all_rounds}).of_round(name)
