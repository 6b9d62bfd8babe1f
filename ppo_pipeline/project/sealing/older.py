"""Sealed rounds of a version that wrote fewer files than this one reads."""

from ...errors import PipelineError
from ...settings.params import ROOT, Params
from ..paths import Paths


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
