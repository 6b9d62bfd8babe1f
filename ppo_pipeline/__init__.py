"""PPO fine-tuning of language models as a reproducible DVC pipeline of staged batch jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from .project.run import Run

__all__ = ["__version__", "open"]
__version__ = "0.1.0"


def open(folder: str | os.PathLike[str] = ".") -> Run:
    """Open a project folder to read: its tables, metrics and policies; docs/python.md shows what one does with them.

    Raises PipelineError where the folder has no params.yaml, or one that is not right.
    """
    from .project.run import Run  # all that is heavy waits until here

    return Run(folder)
