"""Libraries that only some settings need: imported where they are used, by the name of the extra that brings them."""

from importlib import import_module
from typing import Any

from . import PipelineError


def to_install(extra: str) -> str:
    """Return the commands that bring an extra."""
    return f"`pip install -c constraints.txt -e '.[{extra}]'` in a clone, else `pip install 'ppo-pipeline[{extra}]'`"


def import_extra(module: str, extra: str, what: str) -> Any:
    """Return a module of an optional library; raise PipelineError, with what to install, where it is not here.

    what: the setting that asks for it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise PipelineError(f"{what} needs a library that is not here ({error}): {to_install(extra)}.") from None
