"""Sealed rounds that no open one can start from: of a version that wrote fewer files, or of another base model."""

from ...errors import PipelineError
from ...settings.params import ROOT, Params
from ..paths import Paths
from .index import kept_blocks, stages_file


def refuse_parents_without_memory(params: Params) -> None:
    """Raise PipelineError where an open round starts from a sealed one without prompt_scores.parquet.

    DVC would say no more than that the file is missing. Where the whole round is not there, `dvc pull` is to come.
    """
    for name, entry in params.rounds.items():
        paths = Paths(name, entry.parent)
        sealed = entry.parent not in params.rounds and entry.parent != ROOT
        if sealed and paths.parent_state.is_file() and not paths.parent_prompt_scores.is_file():
            raise PipelineError(
                f"{paths.parent_prompt_scores}: no such file, from which {name} starts: {entry.parent} was sealed by a "
                f"version that remembered nothing of prompts. Copy {Paths(ROOT).prompt_scores} there, which is empty; "
                "the command of the stage init in dvc.yaml writes it."
            )


def refuse_parents_of_another_start(params: Params) -> None:
    """Raise PipelineError where an open round starts from a sealed one whose adapter stands beside another model.

    What that was is among the dependencies in the sealed round's entries of dvc.lock.
    """
    for name, entry in params.rounds.items():
        if entry.parent in (ROOT, *params.rounds) or not stages_file(entry.parent).is_file():
            continue
        update = kept_blocks(entry.parent).get(f"update@{entry.parent}", "")
        if f"path: {params.start}\n" not in update:
            raise PipelineError(
                f"params.yaml: policy.start: {params.start}, but {name} starts from the sealed {entry.parent}, which "
                f"was trained from another model; set it to that again, or let {name} start from r000."
            )
